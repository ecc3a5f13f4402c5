
/*
 * Owns the making, reading and judging of raw API keys.  A raw key lives in
 * the buffer of a command, which cleanses it, and nowhere else; it is never in
 * a message.  keys.c makes and checks with it, records.c finds by a key.
 */


#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <sys/random.h>

#include <openssl/evp.h>

#include "key.h"
#include "output.h"


static const char  key_base62[] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";


/* every character equally likely: bytes of 248 and above are thrown away */

static rc_t
key_random(char *p, size_t len)
{
    size_t         n;
    unsigned char  byte;

    for (n = 0; n < len; /* void */ ) {

        if (getrandom(&byte, 1, 0) != 1) {
            if (errno == EINTR) {
                continue;
            }

            output_say("no random bytes from the system: %s", strerror(errno));
            return RC_FAILED;
        }

        if (byte < 4 * 62) {
            p[n++] = key_base62[byte % 62];
        }
    }

    return RC_OK;
}


/* CRC-32 of ISO 3309, as in zlib and PNG */

static uint32_t
key_crc32(const char *s, size_t len)
{
    int       bit;
    size_t    i;
    uint32_t  crc;

    crc = 0xffffffff;

    for (i = 0; i < len; i++) {
        crc ^= (unsigned char) s[i];

        for (bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? 0xedb88320 : 0);
        }
    }

    return ~crc;
}


/* writes KEY_CHECK digits, the most significant first */

static void
key_checksum(const char *random, char *p)
{
    int       i;
    uint32_t  crc;

    crc = key_crc32(random, KEY_RANDOM);

    for (i = KEY_CHECK - 1; i >= 0; i--) {
        p[i] = key_base62[crc % 62];
        crc /= 62;
    }
}


rc_t
key_generate(char *key)
{
    char  *random;

    memcpy(key, KEY_PREFIX, sizeof(KEY_PREFIX) - 1);
    random = key + sizeof(KEY_PREFIX) - 1;

    if (key_random(random, KEY_RANDOM) != RC_OK) {
        return RC_FAILED;
    }

    key_checksum(random, random + KEY_RANDOM);
    key[KEY_LEN] = '\0';

    return RC_OK;
}


rc_t
key_id(char *id)
{
    memcpy(id, KEY_ID_PREFIX, sizeof(KEY_ID_PREFIX) - 1);
    id[KEY_ID_LEN] = '\0';

    return key_random(id + sizeof(KEY_ID_PREFIX) - 1, KEY_ID_RANDOM);
}


bool
key_genuine(const char *key)
{
    char         check[KEY_CHECK];
    const char  *random;

    random = key + sizeof(KEY_PREFIX) - 1;

    if (strlen(key) != KEY_LEN
        || strncmp(key, KEY_PREFIX, sizeof(KEY_PREFIX) - 1) != 0
        || strspn(random, key_base62) != KEY_RANDOM + KEY_CHECK)
    {
        return false;
    }

    key_checksum(random, check);

    return memcmp(check, random + KEY_RANDOM, KEY_CHECK) == 0;
}


rc_t
key_hash(const char *key, char *hash)
{
    unsigned       i, len;
    unsigned char  md[EVP_MAX_MD_SIZE];

    if (!EVP_Digest(key, strlen(key), md, &len, EVP_sha256(), NULL)) {
        output_say("SHA-256 is not available in libcrypto");
        return RC_FAILED;
    }

    for (i = 0; i < KEY_HASH_LEN / 2; i++) {
        sprintf(&hash[2 * i], "%02x", md[i]);
    }

    return RC_OK;
}


bool
key_hash_valid(const char *s, size_t len)
{
    return len == KEY_HASH_LEN && strspn(s, "0123456789abcdef") == KEY_HASH_LEN;
}


rc_t
key_read(char *key)
{
    int     c;
    size_t  len;

    for (len = 0; len <= KEY_MAX; len++) {
        c = getchar();

        if (c == '\r') {
            c = getchar();

            if (c != '\n' && c != EOF) {
                break;
            }
        }

        if (c == '\n' || c == EOF) {
            if (len == 0) {
                break;
            }

            key[len] = '\0';
            return RC_OK;
        }

        if (c <= 0x20 || c >= 0x7f || len == KEY_MAX) {
            break;
        }

        key[len] = (char) c;
    }

    output_say("standard input has no API key: one line of 1 to %d "
               "printable characters without blanks is allowed", KEY_MAX);

    return RC_USAGE;
}
