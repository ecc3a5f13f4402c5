
/*
 * Copyright (C) 2026 Convotic
 *
 * convoticctl, the administrator's tool: API keys, the purge of a workspace's
 * cached responses, and a check of the two Redis servers behind the gateway.
 *
 * One command a run, over blocking connections.  A raw API key exists only in
 * memory and on standard output or input; Redis is told its SHA-256.  Every
 * change of a record is one script on one Redis key, so that it is atomic,
 * brings no deleted record back, and touches one slot.  What Redis answers is
 * not trusted: types, sizes and bytes are checked before use, and control
 * characters are escaped before they reach a terminal.
 */


#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/random.h>

#include <hiredis.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>


#ifndef CONVOTIC_VERSION
#define CONVOTIC_VERSION  "0.1.0"
#endif

#define KEY_PREFIX        "cvtk_live_"
#define KEY_RANDOM        26            /* base62 characters, 154 bits */
#define KEY_CHECK         6             /* base62 characters of a CRC-32 */
#define KEY_LEN           (sizeof(KEY_PREFIX) - 1 + KEY_RANDOM + KEY_CHECK)
#define KEY_MAX           256           /* bytes, as the gateway has it */

#define ID_PREFIX         "key_"
#define ID_RANDOM         12

#define HASH_LEN          64            /* SHA-256 in hexadecimal */
#define NAME_LEN_MAX      256           /* bytes of a record's name */
#define TEXT_LEN_MAX      1024          /* bytes, or the gateway refuses it */
#define WORD_MAX          128           /* bytes of an id, of a workspace */
#define PREFIX_MAX        128           /* bytes of --prefix */
#define DB_MAX            65535
#define RATE_MAX          1000000000LL  /* requests per minute */
#define TIME_LIMIT        253402300799LL /* seconds, 9999-12-31T23:59:59Z */
#define TIMEOUT_DEFAULT   2             /* seconds */
#define TIMEOUT_MAX       600           /* seconds */

#define WAIT_REPLICAS     "1"
#define WAIT_TIMEOUT      "100"         /* milliseconds */

#define SCAN_COUNT        "1000"
#define BATCH             500           /* pipelined commands */
#define ELEMENTS_MAX      1000000       /* of one reply */
#define REPLY_MAX         (256 * 1024 * 1024) /* buffered bytes */
#define ERROR_MAX         512           /* bytes of an error sentence */


typedef enum {
    CTL_OK = 0,
    CTL_FAILED = 1,
    CTL_USAGE = 2,
    CTL_UNACKED = 3,
    CTL_NOT_FOUND = 4
} ctl_rc_t;


/* data is NULL when absent, and ends with a NUL that len does not count */

typedef struct {
    char    *data;
    size_t   len;
} str_t;


typedef enum {
    F_ID = 0,
    F_WORKSPACE,
    F_STATUS,
    F_RATE,
    F_EXPIRES,
    F_NAME,
    F_CREATED,
    F_COUNT
} field_t;


static const char *const  field_names[F_COUNT] = {
    "id", "workspace", "status", "rate", "expires", "name", "created"
};


typedef struct {
    str_t    redis_key;             /* the prefix, "key:" and the hash */
    char     hash[HASH_LEN + 1];    /* empty: redis_key ends in no hash */
    str_t    field[F_COUNT];
    bool     wrong_type;
} record_t;


typedef struct {
    char    *host;                  /* NULL: a Unix socket */
    char    *path;
    char    *user;
    char    *password;
    char    *shown;                 /* the URL, without its password */
    int      port;
    char     db[12];
} server_t;


typedef struct {
    redisContext               *redis;
    const server_t             *server;
    int                         timeout;        /* seconds */
    redisReplyObjectFunctions   fn;
    redisReplyObjectFunctions  *fn_default;
    char                        error[ERROR_MAX];
} conn_t;


typedef struct {
    str_t   *elts;
    size_t   nelts;
    size_t   nalloc;
} names_t;


typedef enum {
    O_WORKSPACE = 0,
    O_NAME,
    O_RATE,
    O_EXPIRES,
    O_GRACE,
    O_REDIS,
    O_CACHE_REDIS,
    O_PASSWORD_FILE,
    O_CACHE_PASSWORD_FILE,
    O_PREFIX,
    O_TIMEOUT,
    O_JSON,
    O_HELP,
    O_VERSION,
    O_COUNT
} option_t;

#define O_BASE            256           /* keeps clear of short options */
#define O_GLOBAL          O_REDIS       /* this and later: every command */
#define O_BIT(option)     (1u << (option))


typedef struct ctl_s  ctl_t;

typedef struct {
    const char  *group;                 /* NULL: a command of one word */
    const char  *name;
    ctl_rc_t   (*handler)(ctl_t *ctl);
    int          operands;
    unsigned     options;
    const char  *usage;
    const char  *text;
} command_t;


struct ctl_s {
    const command_t  *command;
    const char       *operand;
    const char       *value[O_COUNT];   /* NULL: the option is not given */
    const char       *prefix;
    int               timeout;          /* seconds */
    long long         expires;          /* unix seconds, 0: never */
    long long         grace;            /* seconds */
    time_t            now;
    bool              json;
    server_t          keys;
    server_t          bodies;
};


typedef void (*visit_pt)(void *data, const str_t *name,
    const redisReply *reply);


/* The scripts.  KEYS[1] is the only Redis key that each touches. */

static const char  script_create[] =
    "if redis.call('EXISTS', KEYS[1]) == 1 then return 'exists' end "
    "redis.call('HSET', KEYS[1], unpack(ARGV)) "
    "return 'ok'";

/*
 * A status is written even where it is there already: the write is what WAIT
 * waits for, and what tells the gateways once more.
 */

static const char  script_status[] =
    "if redis.call('EXISTS', KEYS[1]) == 0 then return 'absent' end "
    "local s = redis.call('HGET', KEYS[1], 'status') "
    "if ARGV[1] ~= 'revoked' then "
    "if s == 'revoked' then return 'revoked' end "
    "if ARGV[1] == 'active' and s ~= 'active' and s ~= 'disabled' then "
    "return 'malformed' end "
    "end "
    "redis.call('HSET', KEYS[1], 'status', ARGV[1]) "
    "return 'ok'";

/* ARGV: expires as it was read (empty: none), the field to set, its value */

static const char  script_retire[] =
    "if redis.call('EXISTS', KEYS[1]) == 0 then return 'absent' end "
    "local r = redis.call('HMGET', KEYS[1], 'status', 'expires') "
    "if r[1] ~= 'active' or (r[2] or '') ~= ARGV[1] then "
    "return 'changed' end "
    "redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) "
    "return 'ok'";

static const char  script_init[] =
    "local s = redis.call('HGET', KEYS[1], 'schema') "
    "if s and s ~= ARGV[1] then return {'other', s} end "
    "redis.call('HSET', KEYS[1], 'schema', ARGV[1]) "
    "return {s and 'present' or 'created', ARGV[1]}";

/*
 * A generation never returns to a value that was used.  What is absent, has
 * fewer than 16 digits or is no plain integer starts from the server's clock
 * in microseconds, as the gateway's own script has it.
 */

static const char  script_purge[] =
    "local g = redis.call('GET', KEYS[1]) "
    "local plain = g and #g <= 18 and string.match(g, '^%d+$') "
    "if plain and string.match(g, '^[1-9]') and #g >= 16 then "
    "redis.call('INCR', KEYS[1]) "
    "return {'present', redis.call('GET', KEYS[1])} end "
    "local t = redis.call('TIME') "
    "local n = t[1] .. string.format('%06d', t[2]) "
    "redis.call('SET', KEYS[1], n) "
    "return {plain and 'present' or g and 'malformed' or 'absent', n}";


/* text and memory */


static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));


static void
say(const char *fmt, ...)
{
    va_list  args;

    fputs("convoticctl: ", stderr);

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);

    fputc('\n', stderr);
}


static void *
mem_realloc(void *p, size_t size)
{
    p = realloc(p, size);

    if (p == NULL) {
        say("out of memory");
        exit(CTL_FAILED);
    }

    return p;
}


static char *
mem_copy(const char *data, size_t len)
{
    char  *p;

    p = mem_realloc(NULL, len + 1);
    memcpy(p, data, len);
    p[len] = '\0';

    return p;
}


static char *text_format(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));


static char *
text_format(const char *fmt, ...)
{
    char     *p;
    va_list   args;

    va_start(args, fmt);

    if (vasprintf(&p, fmt, args) == -1) {
        say("out of memory");
        exit(CTL_FAILED);
    }

    va_end(args);

    return p;
}


static bool
text_utf8(const char *s, size_t len)
{
    json_t  *json;

    json = json_stringn(s, len);
    json_decref(json);

    return json != NULL;
}


/* the bytes of a control character (C0, DEL, or C1 in UTF-8) at s, or 0 */

static size_t
text_control(const char *s, size_t len)
{
    unsigned char  c;

    c = (unsigned char) s[0];

    if (c < 0x20 || c == 0x7f) {
        return 1;
    }

    return (c == 0xc2 && len > 1 && (unsigned char) s[1] < 0xa0) ? 2 : 0;
}


/* control characters, backslashes, and bytes that are no UTF-8 become \xHH */

static char *
text_escape(const char *s, size_t len)
{
    bool    utf8;
    char   *text, *p;
    size_t  i, n;

    utf8 = text_utf8(s, len);
    text = mem_realloc(NULL, len * 4 + 1);
    p = text;

    for (i = 0; i < len; /* void */ ) {
        n = text_control(s + i, len - i);

        if (n == 0 && (s[i] == '\\' || (!utf8 && (s[i] & 0x80)))) {
            n = 1;
        }

        if (n == 0) {
            *p++ = s[i++];
        }

        for ( /* void */ ; n > 0; n--) {
            p += sprintf(p, "\\x%02x", (unsigned char) s[i++]);
        }
    }

    *p = '\0';

    return text;
}


/* a JSON string; bytes that are no UTF-8 are escaped as on a terminal */

static json_t *
text_json(const char *s, size_t len)
{
    char    *text;
    json_t  *json;

    json = json_stringn(s, len);

    if (json == NULL) {
        text = text_escape(s, len);
        json = json_string(text);
        free(text);
    }

    return json;
}


static void
str_set(str_t *s, const char *data, size_t len)
{
    free(s->data);
    s->data = mem_copy(data, len);
    s->len = len;
}


static bool
str_is(const str_t *s, const char *text)
{
    return s->data != NULL && s->len == strlen(text)
           && memcmp(s->data, text, s->len) == 0;
}


/* [A-Za-z0-9._-]{1,128} */

static bool
word_valid(const char *s, size_t len)
{
    size_t  i;

    if (len == 0 || len > WORD_MAX) {
        return false;
    }

    for (i = 0; i < len; i++) {
        if (!((s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= 'a' && s[i] <= 'z')
              || (s[i] >= '0' && s[i] <= '9') || s[i] == '.' || s[i] == '_'
              || s[i] == '-'))
        {
            return false;
        }
    }

    return true;
}


/* decimal digits without a leading zero, at most max; or -1 */

static long long
number_parse(const char *s, size_t len, long long max)
{
    size_t     i;
    long long  n;

    if (len == 0 || len > 18 || (len > 1 && s[0] == '0')) {
        return -1;
    }

    n = 0;

    for (i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return -1;
        }

        n = n * 10 + (s[i] - '0');
    }

    return n <= max ? n : -1;
}


static bool
hash_valid(const char *s, size_t len)
{
    return len == HASH_LEN && strspn(s, "0123456789abcdef") == HASH_LEN;
}


/* times */


/* "90", "90s", "15m", "12h", "30d", with or without "+"; in seconds, or -1 */

static long long
duration_parse(const char *s)
{
    size_t      len;
    long long   n, unit;
    const char  *p;

    static const char       units[] = "smhd";
    static const long long  seconds[] = { 1, 60, 3600, 86400 };

    s += (*s == '+');
    len = strlen(s);
    unit = 1;

    p = len ? strchr(units, s[len - 1]) : NULL;

    if (p != NULL) {
        unit = seconds[p - units];
        len--;
    }

    n = number_parse(s, len, TIME_LIMIT / unit);

    return n == -1 ? -1 : n * unit;
}


/* YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ, in UTC; unix seconds, or -1 */

static long long
date_parse(const char *s)
{
    size_t      i;
    time_t      t;
    struct tm   tm, back;

    static const char  shape[] = "0000-00-00T00:00:00Z";

    for (i = 0; s[i] != '\0'; i++) {
        if (i >= sizeof(shape) - 1
            || (shape[i] == '0' ? !isdigit((unsigned char) s[i])
                                : s[i] != shape[i]))
        {
            return -1;
        }
    }

    if (i != sizeof("0000-00-00") - 1 && i != sizeof(shape) - 1) {
        return -1;
    }

    memset(&tm, 0, sizeof(struct tm));

    if (sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon,
               &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) < 3)
    {
        return -1;
    }

    tm.tm_year -= 1900;
    tm.tm_mon -= 1;

    back = tm;
    t = timegm(&back);

    /* timegm() turns February 30 into March 1 or 2 */

    if (back.tm_mon != tm.tm_mon || back.tm_mday != tm.tm_mday
        || back.tm_hour != tm.tm_hour || back.tm_min != tm.tm_min
        || back.tm_sec != tm.tm_sec)
    {
        return -1;
    }

    return t;
}


/* unix seconds, a date, or "+" and a duration; or -1 */

static long long
time_parse(const char *s, time_t now)
{
    long long  t;

    if (*s == '+') {
        t = duration_parse(s);
        t = (t == -1) ? -1 : t + now;

    } else if (strchr(s, '-') != NULL) {
        t = date_parse(s);

    } else {
        t = number_parse(s, strlen(s), TIME_LIMIT);
    }

    return t <= TIME_LIMIT ? t : -1;
}


/* buf holds "YYYY-MM-DDTHH:MM:SSZ"; t is at most TIME_LIMIT */

static const char *
time_text(long long t, char *buf, size_t size)
{
    time_t     seconds;
    struct tm  tm;

    seconds = (time_t) t;
    gmtime_r(&seconds, &tm);
    strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm);

    return buf;
}


/* API keys */


static const char  base62[] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";


/* every character equally likely: bytes of 248 and above are thrown away */

static ctl_rc_t
random_base62(char *p, size_t len)
{
    size_t         n;
    unsigned char  byte;

    for (n = 0; n < len; /* void */ ) {

        if (getrandom(&byte, 1, 0) != 1) {
            if (errno == EINTR) {
                continue;
            }

            say("no random bytes from the system: %s", strerror(errno));
            return CTL_FAILED;
        }

        if (byte < 4 * 62) {
            p[n++] = base62[byte % 62];
        }
    }

    return CTL_OK;
}


/* CRC-32 of ISO 3309, as in zlib and PNG */

static uint32_t
crc32_of(const char *s, size_t len)
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

    crc = crc32_of(random, KEY_RANDOM);

    for (i = KEY_CHECK - 1; i >= 0; i--) {
        p[i] = base62[crc % 62];
        crc /= 62;
    }
}


static ctl_rc_t
key_generate(char *key)
{
    char  *random;

    memcpy(key, KEY_PREFIX, sizeof(KEY_PREFIX) - 1);
    random = key + sizeof(KEY_PREFIX) - 1;

    if (random_base62(random, KEY_RANDOM) != CTL_OK) {
        return CTL_FAILED;
    }

    key_checksum(random, random + KEY_RANDOM);
    key[KEY_LEN] = '\0';

    return CTL_OK;
}


static bool
key_genuine(const char *key)
{
    char         check[KEY_CHECK];
    const char  *random;

    random = key + sizeof(KEY_PREFIX) - 1;

    if (strlen(key) != KEY_LEN
        || strncmp(key, KEY_PREFIX, sizeof(KEY_PREFIX) - 1) != 0
        || strspn(random, base62) != KEY_RANDOM + KEY_CHECK)
    {
        return false;
    }

    key_checksum(random, check);

    return memcmp(check, random + KEY_RANDOM, KEY_CHECK) == 0;
}


/* hash holds HASH_LEN + 1 bytes */

static ctl_rc_t
key_hash(const char *key, char *hash)
{
    unsigned       i, len;
    unsigned char  md[EVP_MAX_MD_SIZE];

    if (!EVP_Digest(key, strlen(key), md, &len, EVP_sha256(), NULL)) {
        say("SHA-256 is not available in libcrypto");
        return CTL_FAILED;
    }

    for (i = 0; i < HASH_LEN / 2; i++) {
        sprintf(&hash[2 * i], "%02x", md[i]);
    }

    return CTL_OK;
}


/* one line of standard input; key holds KEY_MAX + 1 bytes */

static ctl_rc_t
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
            return CTL_OK;
        }

        if (c <= 0x20 || c >= 0x7f || len == KEY_MAX) {
            break;
        }

        key[len] = (char) c;
    }

    say("standard input has no API key: one line of 1 to %d printable "
        "characters without blanks is allowed", KEY_MAX);

    return CTL_USAGE;
}


/* server URLs */


static void
server_free(server_t *s)
{
    free(s->host);
    free(s->path);
    free(s->user);
    free(s->shown);

    if (s->password) {
        OPENSSL_cleanse(s->password, strlen(s->password));
        free(s->password);
    }
}


/* NULL: malformed, or a NUL in it */

static char *
percent_decode(const char *s, size_t len)
{
    char    *text, *p, hex[3];
    size_t   i;

    text = mem_realloc(NULL, len + 1);
    p = text;

    for (i = 0; i < len; i++) {

        if (s[i] != '%') {
            *p++ = s[i];
            continue;
        }

        if (len - i < 3 || !isxdigit((unsigned char) s[i + 1])
            || !isxdigit((unsigned char) s[i + 2]))
        {
            break;
        }

        memcpy(hex, s + i + 1, 2);
        hex[2] = '\0';
        *p = (char) strtol(hex, NULL, 16);
        i += 2;

        if (*p++ == '\0') {
            break;
        }
    }

    if (i < len) {
        free(text);
        return NULL;
    }

    *p = '\0';

    return text;
}


static const char *
server_parse_db(server_t *s, const char *db)
{
    if (number_parse(db, strlen(db), DB_MAX) == -1) {
        return "the database is not a number from 0 to 65535";
    }

    snprintf(s->db, sizeof(s->db), "%s", db);

    return NULL;
}


/* "unix:" is behind p */

static const char *
server_parse_unix(server_t *s, const char *p)
{
    const char  *query, *error;

    query = strchr(p, '?');
    query = query ? query : p + strlen(p);

    if (*p != '/' || query - p < 2) {
        return "the path of the socket is not absolute";
    }

    s->path = mem_copy(p, (size_t) (query - p));

    if (*query != '\0') {
        if (strncmp(query, "?db=", 4) != 0) {
            return "only ?db=N may follow the path";
        }

        error = server_parse_db(s, query + 4);
        if (error) {
            return error;
        }
    }

    s->shown = text_format(strcmp(s->db, "0") == 0 ? "unix:%s"
                                                   : "unix:%s?db=%s",
                           s->path, s->db);

    return NULL;
}


/* user[:password], up to the "@" */

static const char *
server_parse_user(server_t *s, const char *p, const char *at)
{
    const char  *colon;

    colon = memchr(p, ':', (size_t) (at - p));

    s->user = percent_decode(p, (size_t) ((colon ? colon : at) - p));
    if (s->user == NULL) {
        return "the user has malformed percent-encoding";
    }

    if (colon) {
        s->password = percent_decode(colon + 1, (size_t) (at - colon - 1));
        if (s->password == NULL) {
            return "the password has malformed percent-encoding";
        }
    }

    return NULL;
}


/* host[:port], up to end; an IPv6 address is in brackets */

static const char *
server_parse_host(server_t *s, const char *p, const char *end)
{
    long long    port;
    const char  *colon;

    if (*p == '[') {
        colon = memchr(p, ']', (size_t) (end - p));
        if (colon == NULL) {
            return "the bracket of an IPv6 address is not closed";
        }

        s->host = mem_copy(p + 1, (size_t) (colon - p - 1));
        colon++;

        if (colon < end && *colon != ':') {
            return "only :port may follow an IPv6 address";
        }

    } else {
        colon = memchr(p, ':', (size_t) (end - p));
        colon = colon ? colon : end;
        s->host = mem_copy(p, (size_t) (colon - p));
    }

    if (s->host[0] == '\0') {
        return "the host is missing";
    }

    if (strpbrk(s->host, "?#@%") != NULL) {
        return "the host is malformed";
    }

    s->port = 6379;

    if (colon < end) {
        port = number_parse(colon + 1, (size_t) (end - colon - 1), 65535);
        if (port < 1) {
            return "the port is not a number from 1 to 65535";
        }

        s->port = (int) port;
    }

    return NULL;
}


/* "redis://" is behind p */

static const char *
server_parse_tcp(server_t *s, const char *p)
{
    char        *user;
    const char  *at, *slash, *error;

    slash = p + strcspn(p, "/");
    at = memchr(p, '@', (size_t) (slash - p));

    if (at) {
        error = server_parse_user(s, p, at);
        if (error) {
            return error;
        }

        p = at + 1;
    }

    error = server_parse_host(s, p, slash);
    if (error) {
        return error;
    }

    if (slash[0] != '\0' && slash[1] != '\0') {
        error = server_parse_db(s, slash + 1);
        if (error) {
            return error;
        }
    }

    user = s->user ? text_escape(s->user, strlen(s->user)) : NULL;

    s->shown = text_format(strchr(s->host, ':') ? "redis://%s%s[%s]:%d/%s"
                                                : "redis://%s%s%s:%d/%s",
                           user ? user : "", user && *user ? "@" : "",
                           s->host, s->port, s->db);
    free(user);

    return NULL;
}


/*
 * No part of the URL is in a message: a mistyped URL may have its password
 * anywhere.
 */

static ctl_rc_t
server_parse(server_t *s, const char *source, const char *url)
{
    const char  *p, *error;

    memset(s, 0, sizeof(server_t));
    s->db[0] = '0';
    error = NULL;

    for (p = url; *p != '\0'; p++) {
        if ((unsigned char) *p <= 0x20 || *p == 0x7f) {
            error = "it has a blank or a control character";
        }
    }

    if (error) {
        /* void */

    } else if (strncmp(url, "redis://", 8) == 0) {
        error = server_parse_tcp(s, url + 8);

    } else if (strncmp(url, "unix:", 5) == 0) {
        error = server_parse_unix(s, url + 5);

    } else if (strncmp(url, "rediss://", 9) == 0) {
        error = "TLS is not supported";

    } else {
        error = "it begins neither with redis:// nor with unix:/";
    }

    if (error == NULL) {
        return CTL_OK;
    }

    say("%s: %s; redis://[user[:password]@]host[:port][/db] and "
        "unix:/path[?db=N] are allowed", source, error);

    return CTL_USAGE;
}


/* the first line of the file */

static ctl_rc_t
server_password_file(server_t *s, const char *option, const char *file)
{
    FILE     *f;
    char     *line;
    size_t    size;
    ssize_t   len;
    ctl_rc_t  rc;

    if (s->password) {
        say("%s: the URL has a password already; give one of the two", option);
        return CTL_USAGE;
    }

    f = fopen(file, "r");
    if (f == NULL) {
        say("%s: cannot open %s: %s", option, file, strerror(errno));
        return CTL_FAILED;
    }

    line = NULL;
    size = 0;
    rc = CTL_OK;

    len = getline(&line, &size, f);

    if (len > 0) {
        len = (ssize_t) strcspn(line, "\r\n");
        s->password = mem_copy(line, (size_t) len);
        OPENSSL_cleanse(line, size);
    }

    if (len <= 0) {
        say("%s: no password in the first line of %s", option, file);
        rc = CTL_FAILED;
    }

    free(line);
    fclose(f);

    return rc;
}


/* connections */


static void conn_fail(conn_t *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


static void
conn_fail(conn_t *c, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    vsnprintf(c->error, sizeof(c->error), fmt, args);
    va_end(args);
}


static ctl_rc_t
conn_report(const conn_t *c)
{
    say("%s: %s", c->server->shown, c->error);

    return CTL_FAILED;
}


static void
conn_close(conn_t *c)
{
    if (c->redis) {
        redisFree(c->redis);
        c->redis = NULL;
    }
}


/* always NULL: the connection is closed, c->error says why */

static redisReply *
conn_broken(conn_t *c)
{
    if (c->redis == NULL) {
        conn_fail(c, "the connection was lost");

    } else if (c->redis->err == REDIS_ERR_IO
               && (errno == EAGAIN || errno == EWOULDBLOCK
                   || errno == ETIMEDOUT))
    {
        conn_fail(c, "no answer within %d seconds", c->timeout);

    } else {
        conn_fail(c, "the connection was lost: %s", c->redis->errstr);
    }

    conn_close(c);

    return NULL;
}


#if (HIREDIS_MAJOR >= 1)
typedef size_t  elements_t;
#else
typedef int  elements_t;
#endif


/* hiredis allocates what a server announces: "*2147483647" is 16 GiB */

static void *
conn_create_array(const redisReadTask *task, elements_t n)
{
    conn_t  *c;

    c = task->privdata;

    if ((unsigned long long) n > ELEMENTS_MAX) {
        return NULL;
    }

    return c->fn_default->createArray(task, n);
}


static long long
clock_msec(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}


static void
conn_append(conn_t *c, const char *const *argv)
{
    int  argc;

    for (argc = 0; argv[argc] != NULL; argc++) { /* void */ }

    if (c->redis) {
        redisAppendCommandArgv(c->redis, argc, (const char **) argv, NULL);
    }
}


/* sends what is appended; the next reply, which the caller frees, or NULL */

static redisReply *
conn_read(conn_t *c)
{
    int        done;
    void      *reply;
    long long  deadline;

    if (c->redis == NULL) {
        return conn_broken(c);
    }

    for (done = 0; !done; /* void */ ) {
        if (redisBufferWrite(c->redis, &done) != REDIS_OK) {
            return conn_broken(c);
        }
    }

    deadline = clock_msec() + c->timeout * 1000LL;

    for ( ;; ) {
        reply = NULL;

        if (redisGetReplyFromReader(c->redis, &reply) != REDIS_OK) {
            return conn_broken(c);
        }

        if (reply) {
            return reply;
        }

        if (c->redis->reader->len > REPLY_MAX || clock_msec() > deadline) {
            conn_fail(c, "the answer is too large or too slow");
            conn_close(c);
            return NULL;
        }

        if (redisBufferRead(c->redis) != REDIS_OK) {
            return conn_broken(c);
        }
    }
}


typedef struct {
    const char  *code;
    const char  *text;
} sentence_t;


static const sentence_t  redis_errors[] = {
    { "READONLY", "this server is a read-only replica; name its master" },
    { "DENIED", "the server is in protected mode, which refuses this host" },
    { "NOAUTH", "the server asks for a password; give it in the URL or in a "
                "password file" },
    { "NOPERM", "the user lacks a permission" },
    { "can't run this command", "the user lacks a permission" },
    { "WRONGTYPE", "the Redis key holds a value of another type" },
    { "OOM", "the server has reached its maxmemory" },
    { "LOADING", "the server is loading its data; try again later" },
    { "MASTERDOWN", "this server is a replica without its master" },
    { "MISCONF", "the server refuses writes that it cannot save to disk" },
    { "NOREPLICAS", "the server refuses writes: fewer replicas than its "
                    "min-replicas-to-write" },
    { "MOVED", "Redis Cluster is not supported" },
    { "CLUSTERDOWN", "Redis Cluster is not supported" },
    { "max number of clients", "the server has too many clients" },
    { NULL, "the server answered with an error" }
};


/* an error reply becomes a sentence; in a script, the code is in the middle */

static void
conn_error_reply(conn_t *c, const redisReply *reply)
{
    char              *text;
    const sentence_t  *s;

    for (s = redis_errors; s->code != NULL; s++) {
        if (strstr(reply->str, s->code) != NULL) {
            break;
        }
    }

    text = text_escape(reply->str, reply->len);
    conn_fail(c, "%s (%.300s)", s->text, text);
    free(text);
}


/* one command; a reply of this type, or NULL with c->error set */

static redisReply *
conn_ask(conn_t *c, int type, const char *const *argv)
{
    redisReply  *reply;

    conn_append(c, argv);
    reply = conn_read(c);

    if (reply == NULL || reply->type == type) {
        return reply;
    }

    if (reply->type == REDIS_REPLY_ERROR) {
        conn_error_reply(c, reply);

    } else {
        conn_fail(c, "an unexpected kind of answer to %s", argv[0]);
    }

    freeReplyObject(reply);

    return NULL;
}


static void
conn_auth_error(conn_t *c, const redisReply *reply)
{
    if (strncmp(reply->str, "ERR", 3) == 0
        && strstr(reply->str, "without any password configured") != NULL)
    {
        conn_fail(c, "a password is given, but the server has none for its "
                     "default user");

    } else if (strstr(reply->str, "max number of clients") != NULL
               || strncmp(reply->str, "LOADING", 7) == 0
               || strncmp(reply->str, "DENIED", 6) == 0)
    {
        conn_error_reply(c, reply);

    } else {
        /* the text may repeat the arguments */

        conn_fail(c, "the server refused the user name or the password");
    }
}


static bool
conn_auth(conn_t *c)
{
    bool             ok;
    redisReply      *reply;
    const server_t  *s;
    const char      *argv[4] = { "AUTH", NULL, NULL, NULL };

    s = c->server;

    if (s->user && s->user[0] != '\0') {
        argv[1] = s->user;
        argv[2] = s->password ? s->password : "";

    } else if (s->password && s->password[0] != '\0') {
        argv[1] = s->password;

    } else {
        return true;
    }

    conn_append(c, argv);

    reply = conn_read(c);
    if (reply == NULL) {
        return false;
    }

    ok = reply->type != REDIS_REPLY_ERROR;

    if (!ok) {
        conn_auth_error(c, reply);
    }

    freeReplyObject(reply);

    return ok;
}


static bool
conn_select(conn_t *c)
{
    redisReply  *reply;
    const char  *argv[3] = { "SELECT", c->server->db, NULL };

    if (strcmp(c->server->db, "0") == 0) {
        return true;
    }

    reply = conn_ask(c, REDIS_REPLY_STATUS, argv);
    if (reply == NULL) {
        return false;
    }

    freeReplyObject(reply);

    return true;
}


static bool
conn_connect(conn_t *c)
{
    struct timeval   tv;
    const server_t  *s;

    s = c->server;
    tv.tv_sec = c->timeout;
    tv.tv_usec = 0;

    c->redis = s->path ? redisConnectUnixWithTimeout(s->path, tv)
                       : redisConnectWithTimeout(s->host, s->port, tv);

    if (c->redis == NULL) {
        conn_fail(c, "out of memory");
        return false;
    }

    if (c->redis->err) {
        conn_fail(c, "cannot connect: %s", c->redis->errstr);
        return false;
    }

    c->fn_default = c->redis->reader->fn;
    c->fn = *c->fn_default;
    c->fn.createArray = conn_create_array;
    c->redis->reader->fn = &c->fn;
    c->redis->reader->privdata = c;

    if (redisSetTimeout(c->redis, tv) != REDIS_OK) {
        conn_fail(c, "cannot set a timeout: %s", c->redis->errstr);
        return false;
    }

    return true;
}


/* c is closed, or all zeros; it stays where it is while it is open */

static bool
conn_open(conn_t *c, const server_t *server, int timeout)
{
    memset(c, 0, sizeof(conn_t));
    c->server = server;
    c->timeout = timeout;

    if (conn_connect(c) && conn_auth(c) && conn_select(c)) {
        return true;
    }

    conn_close(c);

    return false;
}


/*
 * The number of replicas of a master; -1: no master, -2: not to be told;
 * c->error says so.
 */

static long long
conn_role(conn_t *c)
{
    char        *host;
    redisReply  *reply, **elts;
    long long    replicas;
    const char  *argv[2] = { "ROLE", NULL };

    reply = conn_ask(c, REDIS_REPLY_ARRAY, argv);
    if (reply == NULL) {
        return -2;
    }

    elts = reply->element;
    replicas = -1;

    if (reply->elements >= 3 && elts[0]->type == REDIS_REPLY_STRING
        && strcmp(elts[0]->str, "master") == 0
        && elts[2]->type == REDIS_REPLY_ARRAY)
    {
        replicas = (long long) elts[2]->elements;

    } else if (reply->elements >= 3 && elts[0]->type == REDIS_REPLY_STRING
               && strcmp(elts[0]->str, "slave") == 0
               && elts[1]->type == REDIS_REPLY_STRING
               && elts[2]->type == REDIS_REPLY_INTEGER)
    {
        host = text_escape(elts[1]->str, elts[1]->len);
        conn_fail(c, "this server is a replica; name its master, %.200s:%lld",
                  host, elts[2]->integer);
        free(host);

    } else {
        conn_fail(c, "this server is not a master");
    }

    freeReplyObject(reply);

    return replicas;
}


/* for commands that write: the number of replicas is at *replicas */

static bool
conn_open_master(conn_t *c, const ctl_t *ctl, long long *replicas)
{
    if (conn_open(c, &ctl->keys, ctl->timeout)) {
        *replicas = conn_role(c);

        if (*replicas >= 0) {
            return true;
        }
    }

    conn_report(c);
    conn_close(c);

    return false;
}


/* the word that a script returns; NULL with c->error set */

static char *
conn_script(conn_t *c, const char *const *argv)
{
    char        *word;
    redisReply  *reply;

    reply = conn_ask(c, REDIS_REPLY_STRING, argv);
    if (reply == NULL) {
        return NULL;
    }

    word = mem_copy(reply->str, reply->len);
    freeReplyObject(reply);

    return word;
}


/* a script that returns two strings */

static redisReply *
conn_script_pair(conn_t *c, const char *const *argv)
{
    redisReply  *reply;

    reply = conn_ask(c, REDIS_REPLY_ARRAY, argv);
    if (reply == NULL) {
        return NULL;
    }

    if (reply->elements == 2 && reply->element[0]->type == REDIS_REPLY_STRING
        && reply->element[1]->type == REDIS_REPLY_STRING)
    {
        return reply;
    }

    conn_fail(c, "an unexpected answer to a script");
    freeReplyObject(reply);

    return NULL;
}


/*
 * After a write on this connection.  The result says how many replicas there
 * were and how many have it.
 */

static ctl_rc_t
conn_wait(conn_t *c, long long replicas, json_t *result)
{
    long long    n;
    redisReply  *reply;
    const char  *argv[4] = { "WAIT", WAIT_REPLICAS, WAIT_TIMEOUT, NULL };

    n = 0;
    c->error[0] = '\0';

    if (replicas > 0) {
        reply = conn_ask(c, REDIS_REPLY_INTEGER, argv);

        if (reply) {
            n = reply->integer;
            freeReplyObject(reply);
        }
    }

    json_object_set_new(result, "replicas", json_integer(replicas));
    json_object_set_new(result, "acknowledged", json_integer(n));

    if (replicas == 0 || n > 0) {
        return CTL_OK;
    }

    if (c->error[0]) {
        say("%s: written, but whether a replica has it is not known: %s",
            c->server->shown, c->error);

    } else {
        say("%s: written, but none of %lld replicas acknowledged it within "
            WAIT_TIMEOUT " ms: a failover now would lose it",
            c->server->shown, replicas);
    }

    return CTL_UNACKED;
}


/* names in Redis */


static void
names_free(names_t *names)
{
    size_t  i;

    for (i = 0; i < names->nelts; i++) {
        free(names->elts[i].data);
    }

    free(names->elts);
    memset(names, 0, sizeof(names_t));
}


static void
names_push(names_t *names, const char *data, size_t len)
{
    str_t  *s;

    if (names->nelts == names->nalloc) {
        names->nalloc = names->nalloc * 2 + 64;
        names->elts = mem_realloc(names->elts,
                                  names->nalloc * sizeof(str_t));
    }

    s = &names->elts[names->nelts++];
    s->data = mem_copy(data, len);
    s->len = len;
}


static int
names_compare(const void *one, const void *two)
{
    int           rc;
    const str_t  *a, *b;

    a = one;
    b = two;

    rc = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);

    return rc ? rc : (a->len > b->len) - (a->len < b->len);
}


/* SCAN may return a name more than once */

static void
names_unique(names_t *names)
{
    size_t  i, n;

    if (names->nelts == 0) {
        return;
    }

    qsort(names->elts, names->nelts, sizeof(str_t), names_compare);

    for (n = 0, i = 1; i < names->nelts; i++) {

        if (names_compare(&names->elts[n], &names->elts[i]) == 0) {
            free(names->elts[i].data);

        } else {
            names->elts[++n] = names->elts[i];
        }
    }

    names->nelts = n + 1;
}


/* the prefix and kind, which are no pattern themselves, and an asterisk */

static char *
names_pattern(const char *prefix, const char *kind)
{
    char        *pattern, *p;
    const char  *s;

    pattern = mem_realloc(NULL, 2 * strlen(prefix) + strlen(kind) + 2);
    p = pattern;

    for (s = prefix; *s != '\0'; s++) {
        if (strchr("*?[]\\^-", *s) != NULL) {
            *p++ = '\\';
        }

        *p++ = *s;
    }

    sprintf(p, "%s*", kind);

    return pattern;
}


/* adds a page; the next cursor is at cursor, which holds 32 bytes */

static bool
names_scan_page(conn_t *c, const char *pattern, char *cursor, names_t *names)
{
    bool         ok;
    size_t       i;
    redisReply  *reply, *page;
    const char  *argv[7] = { "SCAN", cursor, "MATCH", pattern, "COUNT",
                             SCAN_COUNT, NULL };

    reply = conn_ask(c, REDIS_REPLY_ARRAY, argv);
    if (reply == NULL) {
        return false;
    }

    ok = reply->elements == 2
         && reply->element[0]->type == REDIS_REPLY_STRING
         && reply->element[0]->len > 0 && reply->element[0]->len < 32
         && reply->element[1]->type == REDIS_REPLY_ARRAY;

    if (ok) {
        memcpy(cursor, reply->element[0]->str, reply->element[0]->len + 1);
        page = reply->element[1];

        for (i = 0; i < page->elements; i++) {
            if (page->element[i]->type == REDIS_REPLY_STRING) {
                names_push(names, page->element[i]->str,
                           page->element[i]->len);
            }
        }

    } else {
        conn_fail(c, "an unexpected answer to SCAN");
    }

    freeReplyObject(reply);

    return ok;
}


/* all names that begin with the prefix and kind, sorted */

static bool
names_scan(conn_t *c, const char *prefix, const char *kind, names_t *names)
{
    bool   ok;
    char  *pattern, cursor[32];

    memset(names, 0, sizeof(names_t));
    pattern = names_pattern(prefix, kind);
    memcpy(cursor, "0", sizeof("0"));

    do {
        ok = names_scan_page(c, pattern, cursor, names);
    } while (ok && strcmp(cursor, "0") != 0);

    free(pattern);

    if (ok) {
        names_unique(names);

    } else {
        names_free(names);
    }

    return ok;
}


/*
 * Pipelines one command per name, put at argv[1], and visits each reply, also
 * an error; the reply is NULL for a name with a NUL, which is not asked.
 */

static bool
names_read(conn_t *c, const names_t *names, const char **argv,
    visit_pt visit, void *data)
{
    size_t        i, first, last;
    redisReply   *reply;
    const str_t  *name;

    for (first = 0; first < names->nelts; first = last) {
        last = first + BATCH;
        last = last < names->nelts ? last : names->nelts;

        for (i = first; i < last; i++) {
            name = &names->elts[i];
            argv[1] = name->data;

            if (strlen(name->data) == name->len) {
                conn_append(c, argv);
            }
        }

        for (i = first; i < last; i++) {
            name = &names->elts[i];
            reply = NULL;

            if (strlen(name->data) == name->len) {
                reply = conn_read(c);

                if (reply == NULL) {
                    return false;
                }
            }

            visit(data, name, reply);
            freeReplyObject(reply);
        }
    }

    return true;
}


/* records */


static void
record_free(record_t *r)
{
    int  i;

    free(r->redis_key.data);

    for (i = 0; i < F_COUNT; i++) {
        free(r->field[i].data);
    }

    memset(r, 0, sizeof(record_t));
}


static void
record_set(record_t *r, field_t field, const char *text)
{
    str_set(&r->field[field], text, strlen(text));
}


static void
record_set_number(record_t *r, field_t field, long long n)
{
    char  text[24];

    snprintf(text, sizeof(text), "%lld", n);
    record_set(r, field, text);
}


/*
 * The number in a field; -1: absent, or not plain.  The gateway takes up to
 * 12 digits, and does not mind leading zeros.
 */

static long long
record_number(const record_t *r, field_t field, long long max)
{
    size_t        zeros;
    const str_t  *s;

    s = &r->field[field];

    if (s->data == NULL || s->len == 0 || s->len > 12) {
        return -1;
    }

    zeros = strspn(s->data, "0");
    zeros -= (zeros == s->len);

    return number_parse(s->data + zeros, s->len - zeros, max);
}


static void
record_set_hash(record_t *r, const char *prefix, const char *hash)
{
    char  *name;

    name = text_format("%skey:%s", prefix, hash);
    str_set(&r->redis_key, name, strlen(name));
    snprintf(r->hash, sizeof(r->hash), "%s", hash);
    free(name);
}


static bool
record_word(const record_t *r, field_t field)
{
    const str_t  *s;

    s = &r->field[field];

    return s->data != NULL && word_valid(s->data, s->len);
}


/* for people only, but the gateway refuses an absurd one */

static bool
record_text_sane(const record_t *r, field_t field)
{
    size_t        i;
    const str_t  *s;

    s = &r->field[field];

    for (i = 0; i < s->len; i++) {
        if ((unsigned char) s->data[i] < 0x20) {
            return false;
        }
    }

    return s->len <= TEXT_LEN_MAX;
}


/* why the gateway refuses a record, whatever its status; NULL: it does not */

static const char *
record_judge(const record_t *r)
{
    if (r->wrong_type) {
        return "it is not a hash";
    }

    if (r->hash[0] == '\0') {
        return "its name does not end in a SHA-256";
    }

    if (!record_word(r, F_ID)) {
        return "its id is missing or malformed";
    }

    if (!record_word(r, F_WORKSPACE)) {
        return "its workspace is missing or malformed";
    }

    if (!str_is(&r->field[F_STATUS], "active")
        && !str_is(&r->field[F_STATUS], "disabled")
        && !str_is(&r->field[F_STATUS], "revoked"))
    {
        return "its status is missing or unknown";
    }

    if (r->field[F_RATE].data && record_number(r, F_RATE, RATE_MAX) < 1) {
        return "its rate is malformed";
    }

    if (r->field[F_EXPIRES].data
        && record_number(r, F_EXPIRES, TIME_LIMIT) == -1)
    {
        return "its expires is malformed";
    }

    if (!record_text_sane(r, F_NAME)) {
        return "its name is malformed";
    }

    if (!record_text_sane(r, F_CREATED)) {
        return "its created is malformed";
    }

    return NULL;
}


/* what the gateway does not mind, but people may; NULL: nothing */

static const char *
record_incomplete(const record_t *r)
{
    if (r->field[F_NAME].data == NULL || r->field[F_NAME].len > NAME_LEN_MAX) {
        return "its name is missing or too long";
    }

    if (record_number(r, F_CREATED, TIME_LIMIT) == -1) {
        return "its created is missing or no number of seconds";
    }

    return NULL;
}


static bool
record_expired(const record_t *r, time_t now)
{
    return r->field[F_EXPIRES].data
           && record_number(r, F_EXPIRES, TIME_LIMIT) <= (long long) now;
}


static bool
record_empty(const record_t *r)
{
    int  i;

    for (i = 0; i < F_COUNT; i++) {
        if (r->field[i].data) {
            return false;
        }
    }

    return !r->wrong_type;
}


/* reply is that of HMGET with all field_names, or an error, or NULL */

static void
record_fill(record_t *r, const str_t *redis_key, size_t prefix_len,
    const redisReply *reply)
{
    size_t             i, len;
    const char        *hash;
    const redisReply  *elt;

    memset(r, 0, sizeof(record_t));
    str_set(&r->redis_key, redis_key->data, redis_key->len);

    if (redis_key->len >= prefix_len) {
        hash = redis_key->data + prefix_len;
        len = redis_key->len - prefix_len;

        if (hash_valid(hash, len)) {
            memcpy(r->hash, hash, len);
        }
    }

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY
        || reply->elements != F_COUNT)
    {
        r->wrong_type = true;
        return;
    }

    for (i = 0; i < F_COUNT; i++) {
        elt = reply->element[i];

        if (elt->type == REDIS_REPLY_STRING) {
            str_set(&r->field[i], elt->str, elt->len);
        }
    }
}


static const char *const *
record_command(const char **argv, const char *redis_key)
{
    int  i;

    argv[0] = "HMGET";
    argv[1] = redis_key;

    for (i = 0; i < F_COUNT; i++) {
        argv[2 + i] = field_names[i];
    }

    argv[2 + F_COUNT] = NULL;

    return argv;
}


/* a hash may have none of our fields, and is a record all the same */

static bool
record_exists(conn_t *c, const char *redis_key, bool *exists)
{
    redisReply  *reply;
    const char  *argv[3] = { "EXISTS", redis_key, NULL };

    reply = conn_ask(c, REDIS_REPLY_INTEGER, argv);
    if (reply == NULL) {
        return false;
    }

    *exists = (reply->integer != 0);
    freeReplyObject(reply);

    return true;
}


/* the record of a hash, in r; anything but CTL_OK leaves r empty */

static ctl_rc_t
record_read(const ctl_t *ctl, conn_t *c, const char *hash, record_t *r)
{
    bool         ok, exists;
    str_t        name;
    redisReply  *reply;
    const char  *argv[3 + F_COUNT];

    name.data = text_format("%skey:%s", ctl->prefix, hash);
    name.len = strlen(name.data);

    exists = true;
    reply = conn_ask(c, REDIS_REPLY_ARRAY, record_command(argv, name.data));
    ok = false;

    if (reply && reply->elements != F_COUNT) {
        conn_fail(c, "an unexpected answer to HMGET");

    } else if (reply) {
        record_fill(r, &name, name.len - HASH_LEN, reply);
        ok = !record_empty(r) || record_exists(c, name.data, &exists);
    }

    freeReplyObject(reply);
    free(name.data);

    if (!ok || !exists) {
        record_free(r);
    }

    return !ok ? conn_report(c) : exists ? CTL_OK : CTL_NOT_FOUND;
}


typedef struct {
    record_t  *elts;
    size_t     nelts;
    size_t     nalloc;
    names_t    empty;                   /* absent, or without our fields */
    size_t     prefix_len;              /* of the prefix and "key:" */
    str_t      field;                   /* data NULL: all records */
    field_t    index;                   /* the field that must equal it */
} records_t;


static void
records_free(records_t *records)
{
    size_t  i;

    for (i = 0; i < records->nelts; i++) {
        record_free(&records->elts[i]);
    }

    free(records->elts);
    names_free(&records->empty);
    memset(records, 0, sizeof(records_t));
}


/* what r holds belongs to the records now */

static void
records_push(records_t *records, const record_t *r)
{
    if (records->nelts == records->nalloc) {
        records->nalloc = records->nalloc * 2 + 64;
        records->elts = mem_realloc(records->elts,
                                    records->nalloc * sizeof(record_t));
    }

    records->elts[records->nelts++] = *r;
}


/* of a reply to HMGET; keeps those wanted */

static void
records_visit(void *data, const str_t *name, const redisReply *reply)
{
    record_t   r;
    records_t  *records;

    records = data;
    record_fill(&r, name, records->prefix_len, reply);

    if (records->field.data
        && !str_is(&r.field[records->index], records->field.data))
    {
        record_free(&r);

    } else if (record_empty(&r)) {
        names_push(&records->empty, name->data, name->len);
        record_free(&r);

    } else {
        records_push(records, &r);
    }
}


/* of a reply to EXISTS; what was deleted since SCAN is dropped */

static void
records_visit_empty(void *data, const str_t *name, const redisReply *reply)
{
    record_t   r;
    records_t  *records;

    records = data;

    if (reply && reply->type == REDIS_REPLY_INTEGER && reply->integer != 0) {
        record_fill(&r, name, records->prefix_len, NULL);
        r.wrong_type = false;
        records_push(records, &r);
    }
}


/* all records, or those whose field index equals value; false: c->error */

static bool
records_scan(const ctl_t *ctl, conn_t *c, records_t *records, field_t index,
    const char *value)
{
    bool         ok;
    names_t      names;
    const char  *hmget[3 + F_COUNT], *exists[3] = { "EXISTS", NULL, NULL };

    memset(records, 0, sizeof(records_t));
    records->prefix_len = strlen(ctl->prefix) + sizeof("key:") - 1;
    records->index = index;
    records->field.data = (char *) value;

    if (!names_scan(c, ctl->prefix, "key:", &names)) {
        return false;
    }

    record_command(hmget, NULL);
    ok = names_read(c, &names, hmget, records_visit, records)
         && names_read(c, &records->empty, exists, records_visit_empty,
                       records);
    names_free(&names);

    if (!ok) {
        records_free(records);
    }

    return ok;
}


static ctl_rc_t
record_find_id(const ctl_t *ctl, conn_t *c, const char *id, record_t *r)
{
    ctl_rc_t   rc;
    records_t  found;

    if (!records_scan(ctl, c, &found, F_ID, id)) {
        return conn_report(c);
    }

    rc = CTL_OK;

    if (found.nelts == 0) {
        rc = CTL_NOT_FOUND;

    } else if (found.nelts > 1) {
        say("the id %s is in %zu records; name one by its hash, as "
            "\"key list --json\" shows it", id, found.nelts);
        rc = CTL_FAILED;

    } else if (found.elts[0].hash[0] == '\0') {
        say("the record of the id %s is malformed: its name does not end in "
            "a SHA-256", id);
        rc = CTL_FAILED;

    } else {
        *r = found.elts[0];
        memset(&found.elts[0], 0, sizeof(record_t));
    }

    records_free(&found);

    return rc;
}


static ctl_rc_t
record_find_stdin(const ctl_t *ctl, conn_t *c, record_t *r)
{
    bool      genuine;
    char      key[KEY_MAX + 1], hash[HASH_LEN + 1];
    ctl_rc_t  rc;

    rc = key_read(key);
    if (rc != CTL_OK) {
        return rc;
    }

    rc = key_hash(key, hash);
    genuine = key_genuine(key);
    OPENSSL_cleanse(key, sizeof(key));

    if (rc == CTL_OK) {
        rc = record_read(ctl, c, hash, r);
    }

    if (rc == CTL_NOT_FOUND) {
        say("no record of the key on standard input%s",
            genuine ? "" : ", whose form or checksum is wrong");
    }

    return rc;
}


/*
 * The operand is "-" (a raw key on standard input), a hash, or an id; anything
 * but CTL_OK is reported.
 */

static ctl_rc_t
record_find(const ctl_t *ctl, conn_t *c, record_t *r)
{
    ctl_rc_t     rc;
    const char  *operand;

    operand = ctl->operand;
    memset(r, 0, sizeof(record_t));

    if (strcmp(operand, "-") == 0) {
        return record_find_stdin(ctl, c, r);
    }

    rc = CTL_NOT_FOUND;

    if (hash_valid(operand, strlen(operand))) {
        rc = record_read(ctl, c, operand, r);
    }

    if (rc == CTL_NOT_FOUND) {
        rc = record_find_id(ctl, c, operand, r);
    }

    if (rc == CTL_NOT_FOUND) {
        say("no record of the key %s", operand);
    }

    return rc;
}


/* output */


static json_t *
record_json_text(const str_t *s)
{
    return s->data ? text_json(s->data, s->len) : json_null();
}


static json_t *
record_json_number(const record_t *r, field_t field, long long max)
{
    long long  n;

    n = record_number(r, field, max);

    return n == -1 ? json_null() : json_integer(n);
}


static json_t *
record_json(const record_t *r, time_t now)
{
    json_t      *json;
    const char  *malformed, *incomplete;

    json = json_object();
    malformed = record_judge(r);
    incomplete = record_incomplete(r);

    json_object_set_new(json, "id", record_json_text(&r->field[F_ID]));
    json_object_set_new(json, "workspace",
                        record_json_text(&r->field[F_WORKSPACE]));
    json_object_set_new(json, "status",
                        record_json_text(&r->field[F_STATUS]));
    json_object_set_new(json, "rate", record_json_number(r, F_RATE, RATE_MAX));
    json_object_set_new(json, "expires",
                        record_json_number(r, F_EXPIRES, TIME_LIMIT));
    json_object_set_new(json, "name", record_json_text(&r->field[F_NAME]));
    json_object_set_new(json, "created",
                        record_json_number(r, F_CREATED, TIME_LIMIT));
    json_object_set_new(json, "hash",
                        r->hash[0] ? json_string(r->hash) : json_null());
    json_object_set_new(json, "expired",
                        json_boolean(record_expired(r, now)));
    json_object_set_new(json, "malformed",
                        malformed ? json_string(malformed) : json_null());
    json_object_set_new(json, "incomplete",
                        incomplete ? json_string(incomplete) : json_null());

    return json;
}


/* takes the reference */

static void
json_print(json_t *json)
{
    json_dumpf(json, stdout, JSON_COMPACT);
    fputc('\n', stdout);
    json_decref(json);
}


/* a field as a line or a column shows it; the caller frees it */

static char *
record_text(const record_t *r, field_t field)
{
    char          buf[32];
    long long     n;
    const str_t  *s;

    s = &r->field[field];

    if (s->data == NULL) {
        return text_format("%s", field == F_RATE ? "default"
                                 : field == F_EXPIRES ? "never" : "-");
    }

    if (s->len == 0) {
        return text_format("-");
    }

    if (field == F_EXPIRES || field == F_CREATED) {
        n = record_number(r, field, TIME_LIMIT);

        if (n != -1) {
            return text_format("%s", time_text(n, buf, sizeof(buf)));
        }
    }

    return text_escape(s->data, s->len);
}


static void
record_print(const record_t *r, time_t now)
{
    int          i;
    char        *text;
    const char  *malformed, *incomplete;

    for (i = 0; i < F_COUNT; i++) {
        text = record_text(r, i);
        printf("%-10s %s%s\n", field_names[i], text,
               i == F_EXPIRES && record_expired(r, now) ? " (expired)" : "");
        free(text);
    }

    printf("%-10s %s\n", "hash", r->hash[0] ? r->hash : "-");

    malformed = record_judge(r);

    if (malformed) {
        printf("%-10s %s\n", "malformed", malformed);
    }

    incomplete = record_incomplete(r);

    if (incomplete) {
        printf("%-10s %s\n", "incomplete", incomplete);
    }
}


/* standard output must have taken it all; a pipe may be closed */

static bool
output_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return true;
    }

    say("standard output cannot be written: %s", strerror(errno));

    return false;
}


/* commands: init and cache purge */


/* the reply to HGET of the schema, which the caller frees; or NULL */

static redisReply *
meta_read(const ctl_t *ctl, conn_t *c)
{
    char        *name;
    redisReply  *reply;
    const char  *argv[4] = { "HGET", NULL, "schema", NULL };

    name = text_format("%smeta", ctl->prefix);
    argv[1] = name;

    conn_append(c, argv);
    reply = conn_read(c);

    free(name);

    return reply;
}


/* a user may lack the permission to see it: that is no reason to warn */

static void
meta_warn(const ctl_t *ctl, conn_t *c)
{
    redisReply  *reply;

    reply = meta_read(ctl, c);

    if (reply && (reply->type == REDIS_REPLY_NIL
                  || (reply->type == REDIS_REPLY_STRING
                      && strcmp(reply->str, "1") != 0)
                  || (reply->type == REDIS_REPLY_ERROR
                      && strstr(reply->str, "WRONGTYPE") != NULL)))
    {
        say("warning: %s has no %smeta with schema 1, so that the gateway "
            "believes no record of it; run \"convoticctl init\"",
            c->server->shown, ctl->prefix);
    }

    freeReplyObject(reply);
}


static ctl_rc_t
init_done(const ctl_t *ctl, conn_t *c, long long replicas,
    const redisReply *reply)
{
    bool         created;
    char        *text;
    json_t      *result;
    ctl_rc_t     rc;
    const str_t  schema = { reply->element[1]->str, reply->element[1]->len };

    if (strcmp(reply->element[0]->str, "other") == 0) {
        text = text_escape(schema.data, schema.len);
        say("%s: %smeta has schema %.100s; this convoticctl knows schema 1 "
            "only", c->server->shown, ctl->prefix, text);
        free(text);
        return CTL_FAILED;
    }

    created = strcmp(reply->element[0]->str, "created") == 0;
    result = json_pack("{s:i, s:b}", "schema", 1, "created", created);
    rc = conn_wait(c, replicas, result);

    if (ctl->json) {
        json_print(result);

    } else {
        printf("%smeta: schema 1 %s\n", ctl->prefix,
               created ? "written" : "was there already");
        json_decref(result);
    }

    return rc;
}


static ctl_rc_t
init_handler(ctl_t *ctl)
{
    char        *name;
    conn_t       c;
    ctl_rc_t     rc;
    long long    replicas;
    redisReply  *reply;
    const char  *argv[6] = { "EVAL", script_init, "1", NULL, "1", NULL };

    if (!conn_open_master(&c, ctl, &replicas)) {
        return CTL_FAILED;
    }

    name = text_format("%smeta", ctl->prefix);
    argv[3] = name;

    reply = conn_script_pair(&c, argv);
    rc = reply ? init_done(ctl, &c, replicas, reply) : conn_report(&c);

    freeReplyObject(reply);
    free(name);
    conn_close(&c);

    return rc;
}


static ctl_rc_t
purge_done(const ctl_t *ctl, conn_t *c, long long replicas,
    const redisReply *reply)
{
    json_t      *result;
    ctl_rc_t     rc;
    long long    generation;
    const char  *workspace, *was;

    was = reply->element[0]->str;
    generation = atoll(reply->element[1]->str);
    workspace = ctl->value[O_WORKSPACE];

    result = json_pack("{s:s, s:I, s:s}", "workspace", workspace,
                       "generation", (json_int_t) generation, "was", was);

    if (result == NULL) {
        say("an unexpected answer to a script");
        return CTL_FAILED;
    }

    if (strcmp(was, "malformed") == 0) {
        say("warning: the generation of %s was no plain integer, so that "
            "nothing of it was cached; it starts anew", workspace);
    }

    rc = conn_wait(c, replicas, result);

    if (ctl->json) {
        json_print(result);

    } else {
        printf("%s: purged, generation %lld\n", workspace, generation);
        json_decref(result);
    }

    return rc;
}


static ctl_rc_t
purge_handler(ctl_t *ctl)
{
    char        *name;
    conn_t       c;
    ctl_rc_t     rc;
    long long    replicas;
    redisReply  *reply;
    const char  *argv[5] = { "EVAL", script_purge, "1", NULL, NULL };

    if (!conn_open_master(&c, ctl, &replicas)) {
        return CTL_FAILED;
    }

    name = text_format("%sgen:{%s}", ctl->prefix, ctl->value[O_WORKSPACE]);
    argv[3] = name;

    reply = conn_script_pair(&c, argv);
    rc = reply ? purge_done(ctl, &c, replicas, reply) : conn_report(&c);

    freeReplyObject(reply);
    free(name);
    conn_close(&c);

    return rc;
}


/* commands: keys */


/* a new record with a new key, in memory; key holds KEY_LEN + 1 bytes */

static ctl_rc_t
record_new(const ctl_t *ctl, record_t *r, char *key)
{
    char  id[sizeof(ID_PREFIX) + ID_RANDOM], hash[HASH_LEN + 1];

    memset(r, 0, sizeof(record_t));

    memcpy(id, ID_PREFIX, sizeof(ID_PREFIX));
    id[sizeof(id) - 1] = '\0';

    if (random_base62(id + sizeof(ID_PREFIX) - 1, ID_RANDOM) != CTL_OK
        || key_generate(key) != CTL_OK || key_hash(key, hash) != CTL_OK)
    {
        return CTL_FAILED;
    }

    record_set_hash(r, ctl->prefix, hash);
    record_set(r, F_ID, id);
    record_set(r, F_STATUS, "active");
    record_set_number(r, F_CREATED, ctl->now);

    return CTL_OK;
}


/* writes a record where there is none; anything but CTL_OK is reported */

static ctl_rc_t
record_create(conn_t *c, const record_t *r)
{
    int          i, n;
    char        *word;
    ctl_rc_t     rc;
    const char  *argv[5 + 2 * F_COUNT] = { "EVAL", script_create, "1" };

    argv[3] = r->redis_key.data;

    for (i = 0, n = 4; i < F_COUNT; i++) {
        if (r->field[i].data) {
            argv[n++] = field_names[i];
            argv[n++] = r->field[i].data;
        }
    }

    argv[n] = NULL;

    word = conn_script(c, argv);
    rc = CTL_FAILED;

    if (word == NULL && c->redis == NULL) {
        say("%s: %s; whether the key %s was written is not known: see \"key "
            "show %s\", and revoke it if it is there", c->server->shown,
            c->error, r->field[F_ID].data, r->field[F_ID].data);

    } else if (word == NULL) {
        conn_report(c);

    } else if (strcmp(word, "ok") != 0) {
        say("a record of this key is there already; nothing is written");

    } else {
        rc = CTL_OK;
    }

    free(word);

    return rc;
}


/* the only place that prints a raw key; JSON gets the result's members too */

static bool
key_print(const ctl_t *ctl, const record_t *r, const char *key, json_t *result)
{
    json_t  *json;

    if (ctl->json) {
        json = record_json(r, ctl->now);
        json_object_set_new(json, "key", json_string(key));
        json_object_update(json, result);
        json_print(json);

    } else {
        printf("%-10s %s\n", "key", key);
        record_print(r, ctl->now);
        printf("Keep the key now: it is not stored and cannot be shown "
               "again.\n");
    }

    if (output_flush()) {
        return true;
    }

    say("the key %s was created but not shown: revoke it",
        r->field[F_ID].data);

    return false;
}


static ctl_rc_t
create_record(const ctl_t *ctl, conn_t *c, record_t *r, char *key)
{
    const char  *name;

    if (record_new(ctl, r, key) != CTL_OK) {
        return CTL_FAILED;
    }

    name = ctl->value[O_NAME];

    record_set(r, F_WORKSPACE, ctl->value[O_WORKSPACE]);
    record_set(r, F_NAME, name ? name : "");

    if (ctl->value[O_RATE]) {
        record_set(r, F_RATE, ctl->value[O_RATE]);
    }

    if (ctl->value[O_EXPIRES]) {
        record_set_number(r, F_EXPIRES, ctl->expires);
    }

    return record_create(c, r);
}


static ctl_rc_t
create_handler(ctl_t *ctl)
{
    char       key[KEY_LEN + 1];
    json_t    *result;
    conn_t     c;
    record_t   r;
    ctl_rc_t   rc;
    long long  replicas;

    if (!conn_open_master(&c, ctl, &replicas)) {
        return CTL_FAILED;
    }

    meta_warn(ctl, &c);

    rc = create_record(ctl, &c, &r, key);

    if (rc == CTL_OK) {
        result = json_object();
        rc = conn_wait(&c, replicas, result);

        if (!key_print(ctl, &r, key, result)) {
            rc = CTL_FAILED;
        }

        json_decref(result);
    }

    OPENSSL_cleanse(key, sizeof(key));
    record_free(&r);
    conn_close(&c);

    return rc;
}


/* by workspace, then from old to new */

static int
records_compare(const void *one, const void *two)
{
    int              i, rc;
    long long        t[2];
    const str_t      *s[2];
    const record_t  *r[2];

    static const str_t  empty = { "", 0 };

    r[0] = one;
    r[1] = two;

    for (i = 0; i < 2; i++) {
        s[i] = r[i]->field[F_WORKSPACE].data ? &r[i]->field[F_WORKSPACE]
                                             : &empty;
        t[i] = record_number(r[i], F_CREATED, TIME_LIMIT);
    }

    rc = names_compare(s[0], s[1]);

    if (rc == 0) {
        rc = (t[0] > t[1]) - (t[0] < t[1]);
    }

    return rc ? rc : names_compare(&r[0]->redis_key, &r[1]->redis_key);
}


static void
list_row(const record_t *r, time_t now)
{
    int          i;
    char        *text[F_COUNT], *name;
    const char  *status, *malformed;

    for (i = 0; i < F_COUNT; i++) {
        text[i] = record_text(r, i);
    }

    malformed = record_judge(r);
    status = text[F_STATUS];

    if (malformed) {
        status = "malformed";

    } else if (str_is(&r->field[F_STATUS], "active")
               && record_expired(r, now))
    {
        status = "expired";
    }

    printf("%-16s  %-16s  %-9s  %-10s  %-20s  %-20s  %s", text[F_ID],
           text[F_WORKSPACE], status, text[F_RATE], text[F_EXPIRES],
           text[F_CREATED], text[F_NAME]);

    if (malformed) {
        name = text_escape(r->redis_key.data, r->redis_key.len);
        printf("  (%s: %s)", name, malformed);
        free(name);
    }

    putchar('\n');

    for (i = 0; i < F_COUNT; i++) {
        free(text[i]);
    }
}


static ctl_rc_t
list_handler(ctl_t *ctl)
{
    size_t     i;
    conn_t     c;
    json_t    *json;
    records_t  records;

    if (!conn_open(&c, &ctl->keys, ctl->timeout)
        || !records_scan(ctl, &c, &records, F_WORKSPACE,
                         ctl->value[O_WORKSPACE]))
    {
        conn_report(&c);
        conn_close(&c);
        return CTL_FAILED;
    }

    conn_close(&c);

    if (records.nelts) {
        qsort(records.elts, records.nelts, sizeof(record_t), records_compare);
    }

    if (ctl->json) {
        json = json_array();

        for (i = 0; i < records.nelts; i++) {
            json_array_append_new(json,
                                  record_json(&records.elts[i], ctl->now));
        }

        json_print(json);

    } else {
        printf("%-16s  %-16s  %-9s  %-10s  %-20s  %-20s  %s\n", "ID",
               "WORKSPACE", "STATUS", "RATE", "EXPIRES", "CREATED", "NAME");

        for (i = 0; i < records.nelts; i++) {
            list_row(&records.elts[i], ctl->now);
        }
    }

    records_free(&records);

    return CTL_OK;
}


static ctl_rc_t
show_handler(ctl_t *ctl)
{
    conn_t    c;
    record_t  r;
    ctl_rc_t  rc;

    if (!conn_open(&c, &ctl->keys, ctl->timeout)) {
        return conn_report(&c);
    }

    rc = record_find(ctl, &c, &r);

    if (rc == CTL_OK && ctl->json) {
        json_print(record_json(&r, ctl->now));

    } else if (rc == CTL_OK) {
        record_print(&r, ctl->now);
    }

    record_free(&r);
    conn_close(&c);

    return rc;
}


static ctl_rc_t
check_handler(ctl_t *ctl)
{
    bool      genuine;
    char      key[KEY_MAX + 1];
    ctl_rc_t  rc;

    if (strcmp(ctl->operand, "-") != 0) {
        say("key check reads the key from standard input only: give - in "
            "place of it");
        return CTL_USAGE;
    }

    rc = key_read(key);
    if (rc != CTL_OK) {
        return rc;
    }

    genuine = key_genuine(key);
    OPENSSL_cleanse(key, sizeof(key));

    if (ctl->json) {
        json_print(json_pack("{s:b}", "genuine", genuine));

    } else {
        puts(genuine ? "genuine: the form and the checksum are right"
                     : "not genuine: the form or the checksum is wrong");
    }

    return genuine ? CTL_OK : CTL_FAILED;
}


/* anything but CTL_OK is reported; r gets the status too */

static ctl_rc_t
record_status(conn_t *c, record_t *r, const char *status)
{
    char        *word, *id;
    ctl_rc_t     rc;
    const char  *argv[6] = { "EVAL", script_status, "1", r->redis_key.data,
                             status, NULL };

    word = conn_script(c, argv);
    if (word == NULL) {
        return conn_report(c);
    }

    id = record_text(r, F_ID);
    rc = CTL_FAILED;

    if (strcmp(word, "ok") == 0) {
        record_set(r, F_STATUS, status);
        rc = CTL_OK;

    } else if (strcmp(word, "revoked") == 0) {
        say("the key %.200s is revoked, which is final; create a new one", id);

    } else if (strcmp(word, "absent") == 0) {
        say("the record of the key %.200s was deleted meanwhile", id);
        rc = CTL_NOT_FOUND;

    } else {
        say("the status of the key %.200s is neither active nor disabled; "
            "revoke it, and create a new one", id);
    }

    free(id);
    free(word);

    return rc;
}


static ctl_rc_t
status_change(ctl_t *ctl, const char *status)
{
    conn_t       c;
    json_t      *result, *json;
    record_t     r;
    ctl_rc_t     rc;
    long long    replicas;
    const char  *malformed;

    if (!conn_open_master(&c, ctl, &replicas)) {
        return CTL_FAILED;
    }

    rc = record_find(ctl, &c, &r);

    if (rc == CTL_OK) {
        rc = record_status(&c, &r, status);
    }

    if (rc == CTL_OK) {
        result = json_object();
        rc = conn_wait(&c, replicas, result);
        malformed = record_judge(&r);

        if (malformed) {
            say("warning: the gateway refuses this record all the same: %s",
                malformed);
        }

        if (ctl->json) {
            json = record_json(&r, ctl->now);
            json_object_update(json, result);
            json_print(json);

        } else {
            record_print(&r, ctl->now);
        }

        json_decref(result);
    }

    record_free(&r);
    conn_close(&c);

    return rc;
}


static ctl_rc_t
enable_handler(ctl_t *ctl)
{
    return status_change(ctl, "active");
}


static ctl_rc_t
disable_handler(ctl_t *ctl)
{
    return status_change(ctl, "disabled");
}


static ctl_rc_t
revoke_handler(ctl_t *ctl)
{
    return status_change(ctl, "revoked");
}


/* the record of the key to be replaced must be one that works */

static ctl_rc_t
rotate_check(const ctl_t *ctl, const record_t *old)
{
    char        *id;
    const char  *malformed;

    malformed = record_judge(old);
    id = record_text(old, F_ID);

    if (malformed) {
        say("the record of the key %.200s is malformed, %s; revoke it, and "
            "create a new one", id, malformed);

    } else if (!str_is(&old->field[F_STATUS], "active")) {
        say("the key %s is %s; only an active key is rotated", id,
            old->field[F_STATUS].data);

    } else if (record_expired(old, ctl->now)) {
        say("the key %s has expired; create a new one", id);

    } else {
        free(id);
        return CTL_OK;
    }

    free(id);

    return CTL_FAILED;
}


/* until when the old key works: never later than it would have without us */

static long long
rotate_expires(const ctl_t *ctl, const record_t *old)
{
    long long  expires, grace_end;

    expires = record_number(old, F_EXPIRES, TIME_LIMIT);
    grace_end = ctl->now + ctl->grace;

    return (expires == -1 || expires > grace_end) ? grace_end : expires;
}


/*
 * The old key goes only if it is as it was read.  If another change came
 * first, a revocation say, the new key is revoked: it must not outlive that.
 */

static ctl_rc_t
rotate_retire(const ctl_t *ctl, conn_t *c, record_t *old, record_t *fresh,
    bool *keep)
{
    char        *word, value[24];
    field_t      field;
    ctl_rc_t     rc;
    const char  *argv[8] = { "EVAL", script_retire, "1", old->redis_key.data,
                             "", "status", "revoked", NULL };

    field = F_STATUS;

    if (old->field[F_EXPIRES].data) {
        argv[4] = old->field[F_EXPIRES].data;
    }

    if (ctl->grace > 0) {
        field = F_EXPIRES;
        snprintf(value, sizeof(value), "%lld", rotate_expires(ctl, old));
        argv[5] = field_names[field];
        argv[6] = value;
    }

    word = conn_script(c, argv);
    rc = CTL_FAILED;

    if (word == NULL) {
        say("%s: %s; the new key works, but the old one may work still: "
            "revoke it", c->server->shown, c->error);

    } else if (strcmp(word, "ok") == 0) {
        record_set(old, field, argv[6]);
        rc = CTL_OK;

    } else {
        say("the key %s was changed by another meanwhile; nothing is rotated",
            old->field[F_ID].data);
        (void) record_status(c, fresh, "revoked");
        *keep = false;
    }

    free(word);

    return rc;
}


/* the new key has the workspace, name, rate and expiry of the old one */

static ctl_rc_t
rotate_create(const ctl_t *ctl, conn_t *c, const record_t *old,
    record_t *fresh, char *key)
{
    size_t        i;
    const str_t  *s;

    static const field_t  copied[] = { F_WORKSPACE, F_NAME, F_RATE,
                                       F_EXPIRES };

    if (record_new(ctl, fresh, key) != CTL_OK) {
        return CTL_FAILED;
    }

    for (i = 0; i < sizeof(copied) / sizeof(copied[0]); i++) {
        s = &old->field[copied[i]];

        if (s->data) {
            str_set(&fresh->field[copied[i]], s->data, s->len);
        }
    }

    return record_create(c, fresh);
}


static ctl_rc_t
rotate_done(const ctl_t *ctl, conn_t *c, long long replicas, record_t *old,
    record_t *fresh, const char *key)
{
    bool       keep;
    char      *text;
    json_t    *result;
    ctl_rc_t   rc;

    keep = true;
    rc = rotate_retire(ctl, c, old, fresh, &keep);

    if (!keep) {
        return rc;
    }

    result = json_object();
    json_object_set_new(result, "replaced", record_json(old, ctl->now));

    if (rc == CTL_OK) {
        rc = conn_wait(c, replicas, result);
    }

    if (!key_print(ctl, fresh, key, result)) {
        rc = CTL_FAILED;
    }

    json_decref(result);

    if (!ctl->json && rc != CTL_FAILED) {
        text = record_text(old, F_EXPIRES);
        printf(ctl->grace > 0 ? "The old key %s works until %s.\n"
                              : "The old key %s is revoked.\n",
               old->field[F_ID].data, text);
        free(text);
    }

    return rc;
}


static ctl_rc_t
rotate_handler(ctl_t *ctl)
{
    char       key[KEY_LEN + 1];
    conn_t     c;
    record_t   old, fresh;
    ctl_rc_t   rc;
    long long  replicas;

    if (!conn_open_master(&c, ctl, &replicas)) {
        return CTL_FAILED;
    }

    memset(&fresh, 0, sizeof(record_t));

    rc = record_find(ctl, &c, &old);

    if (rc == CTL_OK) {
        rc = rotate_check(ctl, &old);
    }

    if (rc == CTL_OK) {
        meta_warn(ctl, &c);
        rc = rotate_create(ctl, &c, &old, &fresh, key);
    }

    if (rc == CTL_OK) {
        rc = rotate_done(ctl, &c, replicas, &old, &fresh, key);
    }

    OPENSSL_cleanse(key, sizeof(key));
    record_free(&fresh);
    record_free(&old);
    conn_close(&c);

    return rc;
}


/* commands: doctor */


typedef enum {
    D_OK = 0,
    D_WARN,
    D_FAIL
} verdict_t;


typedef struct {
    ctl_t     *ctl;
    json_t    *checks;                  /* NULL: text, printed at once */
    unsigned   failed;
} doctor_t;


/* one of the two servers */

typedef struct {
    const char       *label;
    const char       *const (*probes)[8];
    bool              is_keys;
    conn_t            conn;
    bool              up;
    bool              master;
    char             *info;             /* NULL: INFO was refused */
} side_t;


static void doctor_say(doctor_t *d, verdict_t verdict, const char *label,
    const char *check, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));


static void
doctor_say(doctor_t *d, verdict_t verdict, const char *label,
    const char *check, const char *fmt, ...)
{
    char     *text, name[32];
    va_list   args;

    static const char *const  words[] = { "ok", "warn", "FAIL" };
    static const char *const  json_words[] = { "ok", "warn", "fail" };

    va_start(args, fmt);

    if (vasprintf(&text, fmt, args) == -1) {
        say("out of memory");
        exit(CTL_FAILED);
    }

    va_end(args);

    d->failed += (verdict == D_FAIL);
    snprintf(name, sizeof(name), "%s%s%s", label, *label ? " " : "", check);

    if (d->checks) {
        json_array_append_new(d->checks,
            json_pack("{s:s, s:s, s:s}", "check", name,
                      "result", json_words[verdict], "text", text));

    } else {
        printf("%-4s  %-18s  %s\n", words[verdict], name, text);
    }

    free(text);
}


/* a line of INFO at buf; false: INFO was refused, or has no such line */

static bool
info_value(const side_t *side, const char *name, char *buf, size_t size)
{
    size_t       n, len;
    const char  *p;

    n = strlen(name);

    for (p = side->info; p != NULL; p = strchr(p, '\n')) {
        p += (*p == '\n');

        if (strncmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1;
            len = strcspn(p, "\r\n");

            if (len >= size) {
                return false;
            }

            memcpy(buf, p, len);
            buf[len] = '\0';

            return true;
        }
    }

    return false;
}


static long long
info_number(const side_t *side, const char *name)
{
    char  buf[32];

    if (!info_value(side, name, buf, sizeof(buf))) {
        return -1;
    }

    return number_parse(buf, strlen(buf), LLONG_MAX);
}


static void
doctor_reach(doctor_t *d, side_t *side, const server_t *server)
{
    long long    start;
    redisReply  *reply;
    const char  *ping[2] = { "PING", NULL };

    start = clock_msec();

    if (conn_open(&side->conn, server, d->ctl->timeout)) {

        reply = conn_ask(&side->conn, REDIS_REPLY_STATUS, ping);

        if (reply) {
            freeReplyObject(reply);
            side->up = true;
        }
    }

    if (side->up) {
        doctor_say(d, D_OK, side->label, "reach", "%s answers in %lld ms",
                   server->shown, clock_msec() - start);

    } else {
        doctor_say(d, D_FAIL, side->label, "reach", "%s: %s", server->shown,
                   side->conn.error);
    }
}


/* the gateway asks the key server alone */

static void
doctor_info(doctor_t *d, side_t *side)
{
    redisReply  *reply;
    const char  *argv[2] = { "INFO", NULL };

    reply = conn_ask(&side->conn, REDIS_REPLY_STRING, argv);

    if (reply) {
        side->info = text_format("%s", reply->str);
        freeReplyObject(reply);

    } else if (side->is_keys) {
        doctor_say(d, D_FAIL, side->label, "info", "the gateway cannot tell "
                   "a restarted server and refuses this one: %s",
                   side->conn.error);

    } else {
        doctor_say(d, D_WARN, side->label, "info", "version, policy and "
                   "memory are not known: %s", side->conn.error);
    }
}


static void
doctor_version(doctor_t *d, side_t *side)
{
    char         version[32], mode[32], *text;
    const char  *engine;

    engine = "Valkey";

    if (!info_value(side, "valkey_version", version, sizeof(version))) {
        engine = "Redis";

        if (!info_value(side, "redis_version", version, sizeof(version))) {
            return;
        }
    }

    text = text_escape(version, strlen(version));

    if (atoi(version) < 6) {
        doctor_say(d, D_FAIL, side->label, "version", "%s %s: 6.0 or later is "
                   "needed, for CLIENT TRACKING and ACLs", engine, text);

    } else {
        doctor_say(d, D_OK, side->label, "version", "%s %s", engine, text);
    }

    free(text);

    if (info_value(side, "redis_mode", mode, sizeof(mode))
        && strcmp(mode, "standalone") != 0)
    {
        text = text_escape(mode, strlen(mode));
        doctor_say(d, D_FAIL, side->label, "mode", "this server runs in %s "
                   "mode; name a standalone server or its master", text);
        free(text);
    }
}


static void
doctor_role(doctor_t *d, side_t *side)
{
    long long  replicas;

    replicas = conn_role(&side->conn);

    if (replicas < 0) {

        /* the gateway does not ask the role of the bodies' server */

        doctor_say(d, replicas == -1 || side->is_keys ? D_FAIL : D_WARN,
                   side->label, "role", "%s", side->conn.error);

        side->master = (replicas != -1);
        return;
    }

    side->master = true;

    if (replicas == 0 && side->is_keys) {
        doctor_say(d, D_WARN, side->label, "role", "master without a replica: "
                   "if it is lost, keys and revocations since the last save "
                   "are lost; attach one");
        return;
    }

    doctor_say(d, D_OK, side->label, "role", "master, replicas: %lld",
               replicas);
}


/*
 * What the gateway sends, one row per command; CLIENT SETNAME is missing, for
 * its refusal does no harm.  They change nothing: no workspace has a colon in
 * its name, so the names with ":doctor:" are absent, and XX sets nothing that
 * is absent.  "%" stands for the prefix.
 */

#define NO_HASH  "0000000000000000000000000000000000000000000000000000000000" \
                 "000000"

static const char *const  keys_probes[][8] = {
    { "EXISTS", "%meta" },
    { "HGETALL", "%key:" NO_HASH },
    { "GET", "%gen:{:doctor:}" },
    { "EVAL", "redis.call('GET', KEYS[1]) "
              "redis.call('TIME') "
              "return redis.call('SET', KEYS[1], '1', 'XX')",
      "1", "%gen:{:doctor:}" },
    { NULL }
};


static const char *const  bodies_probes[][8] = {
    { "GET", "%body:v1:{:doctor:}:" },
    { "SET", "%body:v1:{:doctor:}:", "1", "XX", "PX", "1" },
    { NULL }
};


/* an argument is freed where it is a copy with the prefix */

static redisReply *
doctor_probe(doctor_t *d, side_t *side, const char *const *probe)
{
    int          i;
    char        *copies[8];
    redisReply  *reply;
    const char  *argv[9];

    for (i = 0; i < 8 && probe[i] != NULL; i++) {
        copies[i] = NULL;
        argv[i] = probe[i];

        if (probe[i][0] == '%') {
            copies[i] = text_format("%s%s", d->ctl->prefix, probe[i] + 1);
            argv[i] = copies[i];
        }
    }

    argv[i] = NULL;
    conn_append(&side->conn, argv);
    reply = conn_read(&side->conn);

    while (i--) {
        free(copies[i]);
    }

    return reply;
}


static void
doctor_commands(doctor_t *d, side_t *side)
{
    int          i, refused;
    redisReply  *reply;

    refused = 0;

    for (i = 0; side->probes[i][0] != NULL; i++) {
        reply = doctor_probe(d, side, side->probes[i]);

        if (reply && reply->type != REDIS_REPLY_ERROR) {
            freeReplyObject(reply);
            continue;
        }

        refused++;

        if (reply) {
            conn_error_reply(&side->conn, reply);
            freeReplyObject(reply);
        }

        doctor_say(d, D_FAIL, side->label, "commands", "%s is refused: %s",
                   side->probes[i][0], side->conn.error);
    }

    if (refused == 0) {
        doctor_say(d, D_OK, side->label, "commands", "the user may run the "
                   "%d commands that were tried", i);
    }
}


/* on a connection of its own, which then serves for nothing else */

static bool
tracking_handshake(conn_t *c, const char *prefix)
{
    char         id[24], *key, *gen;
    redisReply  *reply;
    const char  *ask[3] = { "CLIENT", "ID", NULL };
    const char  *track[11] = { "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX",
                               NULL, "PREFIX", NULL, "REDIRECT", id, NULL };
    const char  *subscribe[3] = { "SUBSCRIBE", "__redis__:invalidate", NULL };

    reply = conn_ask(c, REDIS_REPLY_INTEGER, ask);
    if (reply == NULL) {
        return false;
    }

    snprintf(id, sizeof(id), "%lld", reply->integer);
    freeReplyObject(reply);

    key = text_format("%skey:", prefix);
    gen = text_format("%sgen:", prefix);
    track[5] = key;
    track[7] = gen;

    reply = conn_ask(c, REDIS_REPLY_STATUS, track);

    if (reply) {
        freeReplyObject(reply);
        reply = conn_ask(c, REDIS_REPLY_ARRAY, subscribe);
    }

    free(key);
    free(gen);

    if (reply == NULL) {
        return false;
    }

    freeReplyObject(reply);

    return true;
}


/* the gateway works without it, as records and generations age */

static void
doctor_tracking(doctor_t *d, side_t *side)
{
    conn_t  c;

    if (conn_open(&c, side->conn.server, d->ctl->timeout)
        && tracking_handshake(&c, d->ctl->prefix))
    {
        doctor_say(d, D_OK, side->label, "tracking", "CLIENT TRACKING and its "
                   "channel __redis__:invalidate work");

    } else {
        doctor_say(d, D_WARN, side->label, "tracking", "no invalidations: %s; "
                   "+client|id +client|tracking +subscribe and "
                   "&__redis__:invalidate are needed", c.error);
    }

    conn_close(&c);
}


static void
doctor_meta(doctor_t *d, side_t *side)
{
    redisReply  *reply;
    const char  *prefix;

    prefix = d->ctl->prefix;
    reply = meta_read(d->ctl, &side->conn);

    if (reply && reply->type == REDIS_REPLY_STRING
        && strcmp(reply->str, "1") == 0)
    {
        doctor_say(d, D_OK, side->label, "meta", "%smeta has schema 1",
                   prefix);

    } else if (reply && reply->type == REDIS_REPLY_NIL) {
        doctor_say(d, D_FAIL, side->label, "meta", "%smeta has no schema, so "
                   "that the gateway believes no record of this server; run "
                   "\"convoticctl init\"", prefix);

    } else if (reply && reply->type == REDIS_REPLY_STRING) {
        doctor_say(d, D_FAIL, side->label, "meta", "%smeta has a schema other "
                   "than 1; is this the right server and prefix?", prefix);

    } else {
        if (reply && reply->type == REDIS_REPLY_ERROR) {
            conn_error_reply(&side->conn, reply);
        }

        doctor_say(d, D_FAIL, side->label, "meta", "%smeta cannot be read: %s",
                   prefix, side->conn.error);
    }

    freeReplyObject(reply);
}


static void
doctor_policy_keys(doctor_t *d, side_t *side)
{
    char       policy[64], *text;
    long long  max, used;

    if (!info_value(side, "maxmemory_policy", policy, sizeof(policy))) {
        doctor_say(d, D_WARN, side->label, "eviction", "the eviction policy "
                   "is not known, as INFO does not tell; it must be "
                   "noeviction");
        return;
    }

    max = info_number(side, "maxmemory");
    used = info_number(side, "used_memory");

    if (strcmp(policy, "noeviction") != 0) {
        text = text_escape(policy, strlen(policy));
        doctor_say(d, D_FAIL, side->label, "eviction", "maxmemory-policy is "
                   "%s, which may drop keys, generations or rate windows; set "
                   "noeviction", text);
        free(text);

    } else if (max > 0 && used > max / 10 * 9) {
        doctor_say(d, D_WARN, side->label, "eviction", "%lld of %lld bytes of "
                   "maxmemory are used; when full, revocations and purges "
                   "fail: raise maxmemory", used, max);

    } else {
        doctor_say(d, D_OK, side->label, "eviction", "noeviction");
    }
}


static void
doctor_policy_bodies(doctor_t *d, side_t *side)
{
    char       policy[64], *text;
    long long  max;

    if (!info_value(side, "maxmemory_policy", policy, sizeof(policy))) {
        doctor_say(d, D_WARN, side->label, "eviction", "the eviction policy "
                   "is not known, as INFO does not tell; it should be "
                   "allkeys-lru, with a maxmemory");
        return;
    }

    max = info_number(side, "maxmemory");

    if (strncmp(policy, "allkeys-", 8) != 0) {
        text = text_escape(policy, strlen(policy));
        doctor_say(d, D_WARN, side->label, "eviction", "maxmemory-policy is "
                   "%s; set allkeys-lru, or the cache stops when its memory "
                   "is full", text);
        free(text);

    } else if (max <= 0) {
        doctor_say(d, D_WARN, side->label, "eviction", "maxmemory is not set, "
                   "so nothing bounds the cache; set it");

    } else {
        doctor_say(d, D_OK, side->label, "eviction", "%s at %lld bytes",
                   policy, max);
    }
}


/* what RDB or AOF says of itself; false: nothing is kept on disk */

static bool
persistence_enabled(side_t *side, bool *known)
{
    bool         saves;
    redisReply  *reply;
    const char  *argv[4] = { "CONFIG", "GET", "save", NULL };

    *known = true;

    if (info_number(side, "aof_enabled") == 1) {
        return true;
    }

    reply = conn_ask(&side->conn, REDIS_REPLY_ARRAY, argv);

    if (reply == NULL || reply->elements != 2
        || reply->element[1]->type != REDIS_REPLY_STRING)
    {
        *known = false;
        saves = false;

    } else {
        saves = reply->element[1]->len > 0;
    }

    freeReplyObject(reply);

    return saves;
}


static void
doctor_persistence(doctor_t *d, side_t *side)
{
    bool         known, enabled;
    char         status[32];
    size_t       i;

    static const char *const  states[] = {
        "rdb_last_bgsave_status", "aof_last_write_status",
        "aof_last_bgrewrite_status"
    };

    enabled = persistence_enabled(side, &known);

    if (!known) {
        doctor_say(d, D_WARN, side->label, "persistence", "appendonly is off, "
                   "and CONFIG GET save is refused; see that RDB saves or "
                   "appendonly are on");
        return;
    }

    if (!enabled) {
        doctor_say(d, D_WARN, side->label, "persistence", "neither RDB saves "
                   "nor appendonly are on: a restart loses every key; set "
                   "appendonly yes");
        return;
    }

    for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (info_value(side, states[i], status, sizeof(status))
            && strcmp(status, "ok") != 0)
        {
            doctor_say(d, D_WARN, side->label, "persistence", "%s is not ok: "
                       "see the server's log and disk", states[i]);
            return;
        }
    }

    doctor_say(d, D_OK, side->label, "persistence", "%s",
               info_number(side, "aof_enabled") == 1 ? "appendonly is on"
                                                     : "RDB saves are on");
}


static void
doctor_apart(doctor_t *d, const side_t *keys, const side_t *bodies)
{
    char  one[64], two[64];

    static const char  why[] =
        "bodies evict keys, generations and rate windows, or fill the memory "
        "until revocations fail";

    if (d->ctl->value[O_CACHE_REDIS] == NULL) {
        doctor_say(d, D_FAIL, "", "apart", "keys and bodies share one server: "
                   "%s; run a second server and name it with --cache-redis "
                   "and convotic_cache_redis", why);
        return;
    }

    if (!keys->up || !bodies->up) {
        return;
    }

    if (!info_value(keys, "run_id", one, sizeof(one))
        || !info_value(bodies, "run_id", two, sizeof(two)))
    {
        doctor_say(d, D_WARN, "", "apart", "whether keys and bodies are on "
                   "one server is not known, as INFO does not tell");

    } else if (strcmp(one, two) == 0) {
        doctor_say(d, D_FAIL, "", "apart", "both URLs lead to the same server "
                   "(databases do not help): %s; run a second server", why);

    } else {
        doctor_say(d, D_OK, "", "apart", "keys and bodies are on two servers");
    }
}


static void
doctor_records_say(doctor_t *d, side_t *side, const records_t *records)
{
    char             *name;
    size_t            i, malformed, incomplete;
    const record_t   *r, *first;

    first = NULL;
    malformed = 0;
    incomplete = 0;

    for (i = 0; i < records->nelts; i++) {
        r = &records->elts[i];

        if (record_judge(r)) {
            malformed++;
            first = first ? first : r;

        } else if (record_incomplete(r)) {
            incomplete++;
        }
    }

    if (first) {
        name = text_escape(first->redis_key.data, first->redis_key.len);
        doctor_say(d, D_WARN, side->label, "records", "%zu of %zu are "
                   "malformed, and refused by the gateway; the first is "
                   "%.200s: %s", malformed, records->nelts, name,
                   record_judge(first));
        free(name);
    }

    if (incomplete) {
        doctor_say(d, D_WARN, side->label, "records", "%zu of %zu lack a name "
                   "or the time of their creation", incomplete,
                   records->nelts);
    }

    if (malformed == 0 && incomplete == 0) {
        doctor_say(d, D_OK, side->label, "records", "%zu, all well formed",
                   records->nelts);
    }
}


static void
doctor_records(doctor_t *d, side_t *side)
{
    records_t  records;

    if (records_scan(d->ctl, &side->conn, &records, F_ID, NULL)) {
        doctor_records_say(d, side, &records);
        records_free(&records);

    } else {
        doctor_say(d, D_WARN, side->label, "records", "they cannot be read: "
                   "%s", side->conn.error);
    }
}


/* of the generations or the rate windows: how many, and the first bad one */

typedef struct {
    bool       (*good)(const char *kind_rest, size_t len,
                   const redisReply *reply);
    size_t       prefix_len;
    size_t       bad;
    char        *first;
} survey_t;


static void
survey_visit(void *data, const str_t *name, const redisReply *reply)
{
    survey_t  *survey;

    survey = data;

    if (reply && name->len >= survey->prefix_len
        && survey->good(name->data + survey->prefix_len,
                        name->len - survey->prefix_len, reply))
    {
        return;
    }

    survey->bad++;

    if (survey->first == NULL) {
        survey->first = text_escape(name->data, name->len);
    }
}


/* {workspace}, and a plain integer; a nil is one deleted since SCAN */

static bool
generation_good(const char *name, size_t len, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_NIL) {
        return true;
    }

    return len > 2 && name[0] == '{' && name[len - 1] == '}'
           && word_valid(name + 1, len - 2)
           && reply->type == REDIS_REPLY_STRING
           && reply->len >= 1 && reply->len <= 18
           && strspn(reply->str, "0123456789") == reply->len;
}


static bool
rate_good(const char *name, size_t len, const redisReply *reply)
{
    (void) name;
    (void) len;

    return reply->type == REDIS_REPLY_INTEGER && reply->integer != -1;
}


/* false: reported; otherwise survey tells, and its first is to be freed */

static bool
doctor_survey(doctor_t *d, side_t *side, const char *check, const char *kind,
    const char *command, survey_t *survey, size_t *total)
{
    bool         ok;
    names_t      names;
    const char  *argv[3] = { command, NULL, NULL };

    survey->prefix_len = strlen(d->ctl->prefix) + strlen(kind);
    *total = 0;

    ok = names_scan(&side->conn, d->ctl->prefix, kind, &names);

    if (ok) {
        *total = names.nelts;
        ok = names_read(&side->conn, &names, argv, survey_visit, survey);
        names_free(&names);
    }

    if (!ok) {
        doctor_say(d, D_WARN, side->label, check, "they cannot be read: %s",
                   side->conn.error);
        free(survey->first);
    }

    return ok;
}


static void
doctor_generations(doctor_t *d, side_t *side)
{
    size_t    total;
    survey_t  survey = { generation_good, 0, 0, NULL };

    if (!doctor_survey(d, side, "generations", "gen:", "GET", &survey,
                       &total))
    {
        return;
    }

    if (survey.bad) {
        doctor_say(d, D_WARN, side->label, "generations", "%zu of %zu are not "
                   "named {workspace} with its braces or hold no plain "
                   "integer; the first is %.200s; \"cache purge\" repairs a "
                   "value, delete a wrong name", survey.bad, total,
                   survey.first);

    } else {
        doctor_say(d, D_OK, side->label, "generations", "%zu, all plain "
                   "integers", total);
    }

    free(survey.first);
}


static void
doctor_rates(doctor_t *d, side_t *side)
{
    size_t    total;
    survey_t  survey = { rate_good, 0, 0, NULL };

    if (!doctor_survey(d, side, "rates", "rate:", "PTTL", &survey, &total)) {
        return;
    }

    if (survey.bad) {
        doctor_say(d, D_WARN, side->label, "rates", "%zu of %zu rate windows "
                   "have no expiry, so a key may be limited for ever; the "
                   "first is %.200s; delete it", survey.bad, total,
                   survey.first);

    } else {
        doctor_say(d, D_OK, side->label, "rates", "%zu rate windows, all with "
                   "an expiry", total);
    }

    free(survey.first);
}


static void
doctor_keys(doctor_t *d, side_t *side)
{
    doctor_reach(d, side, &d->ctl->keys);

    if (!side->up) {
        return;
    }

    doctor_info(d, side);
    doctor_version(d, side);
    doctor_role(d, side);

    if (side->master) {
        doctor_commands(d, side);
    }

    doctor_tracking(d, side);
    doctor_meta(d, side);
    doctor_policy_keys(d, side);
    doctor_persistence(d, side);
    doctor_records(d, side);
    doctor_generations(d, side);
    doctor_rates(d, side);
}


static void
doctor_bodies(doctor_t *d, side_t *side)
{
    doctor_reach(d, side, &d->ctl->bodies);

    if (!side->up) {
        return;
    }

    doctor_info(d, side);
    doctor_version(d, side);
    doctor_role(d, side);

    if (side->master) {
        doctor_commands(d, side);
    }

    doctor_policy_bodies(d, side);
}


static ctl_rc_t
doctor_handler(ctl_t *ctl)
{
    side_t     keys, bodies;
    json_t    *result;
    doctor_t   d;

    memset(&d, 0, sizeof(doctor_t));
    memset(&keys, 0, sizeof(side_t));
    memset(&bodies, 0, sizeof(side_t));

    d.ctl = ctl;
    d.checks = ctl->json ? json_array() : NULL;

    keys.label = "keys";
    keys.is_keys = true;
    keys.probes = keys_probes;
    doctor_keys(&d, &keys);

    bodies.label = "bodies";
    bodies.probes = bodies_probes;

    if (ctl->value[O_CACHE_REDIS]) {
        doctor_bodies(&d, &bodies);
    }

    doctor_apart(&d, &keys, &bodies);

    conn_close(&keys.conn);
    conn_close(&bodies.conn);
    free(keys.info);
    free(bodies.info);

    if (ctl->json) {
        result = json_pack("{s:b, s:o}", "ok", d.failed == 0,
                           "checks", d.checks);
        json_print(result);
    }

    return d.failed ? CTL_FAILED : CTL_OK;
}


/* the command line */


static const command_t  commands[] = {

    { NULL, "init", init_handler, 0, 0, "init",
      "mark the key server as ours, which the gateway demands" },

    { "key", "create", create_handler, 0,
      O_BIT(O_WORKSPACE) | O_BIT(O_NAME) | O_BIT(O_RATE) | O_BIT(O_EXPIRES),
      "key create --workspace W [--name N] [--rate R] [--expires T]",
      "make an API key and show it once" },

    { "key", "list", list_handler, 0, O_BIT(O_WORKSPACE),
      "key list [--workspace W]",
      "list the records of API keys" },

    { "key", "show", show_handler, 1, 0, "key show ID|HASH|-",
      "show the record of one key" },

    { "key", "check", check_handler, 1, 0, "key check -",
      "check the form and checksum of a key, without Redis" },

    { "key", "disable", disable_handler, 1, 0, "key disable ID|HASH|-",
      "refuse a key until it is enabled" },

    { "key", "enable", enable_handler, 1, 0, "key enable ID|HASH|-",
      "accept a disabled key again" },

    { "key", "revoke", revoke_handler, 1, 0, "key revoke ID|HASH|-",
      "refuse a key for ever" },

    { "key", "rotate", rotate_handler, 1, O_BIT(O_GRACE),
      "key rotate ID|HASH|- [--grace T]",
      "replace a key; the old one works for T more" },

    { "cache", "purge", purge_handler, 0, O_BIT(O_WORKSPACE),
      "cache purge --workspace W",
      "forget the cached responses of a workspace" },

    { NULL, "doctor", doctor_handler, 0, 0, "doctor",
      "check both Redis servers" },

    { NULL, NULL, NULL, 0, 0, NULL, NULL }
};


static const struct option  long_options[] = {
    { "workspace", required_argument, NULL, O_BASE + O_WORKSPACE },
    { "name", required_argument, NULL, O_BASE + O_NAME },
    { "rate", required_argument, NULL, O_BASE + O_RATE },
    { "expires", required_argument, NULL, O_BASE + O_EXPIRES },
    { "grace", required_argument, NULL, O_BASE + O_GRACE },
    { "redis", required_argument, NULL, O_BASE + O_REDIS },
    { "cache-redis", required_argument, NULL, O_BASE + O_CACHE_REDIS },
    { "password-file", required_argument, NULL, O_BASE + O_PASSWORD_FILE },
    { "cache-password-file", required_argument, NULL,
      O_BASE + O_CACHE_PASSWORD_FILE },
    { "prefix", required_argument, NULL, O_BASE + O_PREFIX },
    { "timeout", required_argument, NULL, O_BASE + O_TIMEOUT },
    { "json", no_argument, NULL, O_BASE + O_JSON },
    { "help", no_argument, NULL, O_BASE + O_HELP },
    { "version", no_argument, NULL, O_BASE + O_VERSION },
    { NULL, 0, NULL, 0 }
};


static const char  usage_options[] =
    "\n"
    "Options of every command:\n"
    "  --redis URL                 the key server; CONVOTIC_REDIS, or\n"
    "                              redis://127.0.0.1:6379/0\n"
    "  --cache-redis URL           the server of cached bodies, for doctor;\n"
    "                              CONVOTIC_CACHE_REDIS\n"
    "  --password-file FILE        its first line is the password\n"
    "  --cache-password-file FILE  the same for --cache-redis\n"
    "  --prefix P                  of the names in Redis; convotic:\n"
    "  --timeout SECONDS           for each answer; 2\n"
    "  --json                      print JSON\n"
    "  --help, --version\n"
    "\n"
    "URL: redis://[user[:password]@]host[:port][/db] or unix:/path[?db=N]\n"
    "A raw key is read from standard input where - is given.\n"
    "Exit code: 0 done, 1 failed, 2 usage, 3 done but no replica has it,\n"
    "4 no such key.\n";


static void
usage_print(const command_t *command)
{
    const command_t  *c;

    if (command) {
        printf("Usage: convoticctl %s\n%s\n%s", command->usage, command->text,
               usage_options);
        return;
    }

    puts("Usage: convoticctl COMMAND [OPTIONS]\n");

    for (c = commands; c->name != NULL; c++) {
        printf("  %s\n      %s\n", c->usage, c->text);
    }

    fputs(usage_options, stdout);
}


/* no argument is repeated: it may be a password, or a key */

static ctl_rc_t
options_unknown(int argc, char **argv, int opt)
{
    int  i, len;

    i = optind - 1;

    if (opt == ':') {
        say("the option %s needs a value; see convoticctl --help",
            (i > 0 && i < argc) ? argv[i] : "");

    } else if (optopt > 0 && optopt < O_BASE) {
        say("the option -%c is unknown; see convoticctl --help", optopt);

    } else {
        len = (i > 0 && i < argc) ? (int) strcspn(argv[i], "=") : 0;
        say("the option %.*s is unknown, ambiguous, or takes no value; see "
            "convoticctl --help", len, len ? argv[i] : "");
    }

    return CTL_USAGE;
}


static ctl_rc_t
options_parse(ctl_t *ctl, int argc, char **argv)
{
    int  opt;

    opterr = 0;

    for ( ;; ) {
        opt = getopt_long(argc, argv, ":h", long_options, NULL);

        if (opt == -1) {
            return CTL_OK;
        }

        if (opt == 'h') {
            opt = O_BASE + O_HELP;
        }

        if (opt < O_BASE) {
            return options_unknown(argc, argv, opt);
        }

        ctl->value[opt - O_BASE] = optarg ? optarg : "";
    }
}


/* words are those of the command line that are no options */

static const command_t *
command_find(int n, char **words)
{
    const command_t  *c;

    for (c = commands; c->name != NULL; c++) {

        if (c->group == NULL && n >= 1 && strcmp(words[0], c->name) == 0) {
            return c;
        }

        if (c->group && n >= 2 && strcmp(words[0], c->group) == 0
            && strcmp(words[1], c->name) == 0)
        {
            return c;
        }
    }

    return NULL;
}


static ctl_rc_t
command_parse(ctl_t *ctl, int n, char **words)
{
    int               used;
    const command_t  *c;

    c = command_find(n, words);
    ctl->command = c;

    if (c == NULL) {
        say(n == 0 ? "no command is given; see convoticctl --help"
                   : "there is no such command; see convoticctl --help");
        return CTL_USAGE;
    }

    used = c->group ? 2 : 1;

    if (n - used != c->operands) {
        say("too %s operands; the command is: convoticctl %s",
            n - used > c->operands ? "many" : "few", c->usage);
        return CTL_USAGE;
    }

    ctl->operand = c->operands ? words[used] : NULL;

    return CTL_OK;
}


/* the options that only some commands have */

static ctl_rc_t
options_check_command(ctl_t *ctl)
{
    int               i;
    const command_t  *c;

    c = ctl->command;

    for (i = 0; i < O_GLOBAL; i++) {
        if (ctl->value[i] && !(c->options & O_BIT(i))) {
            say("the option --%s does not belong here; the command is: "
                "convoticctl %s", long_options[i].name, c->usage);
            return CTL_USAGE;
        }
    }

    if ((c->handler == create_handler || c->handler == purge_handler)
        && ctl->value[O_WORKSPACE] == NULL)
    {
        say("--workspace is missing; the command is: convoticctl %s",
            c->usage);
        return CTL_USAGE;
    }

    if (ctl->operand && strncmp(ctl->operand, "cvtk_", 5) == 0) {
        say("a raw key does not belong on a command line, which others can "
            "see; give - and the key on standard input");
        return CTL_USAGE;
    }

    if (ctl->operand && strcmp(ctl->operand, "-") != 0
        && !word_valid(ctl->operand, strlen(ctl->operand)))
    {
        say("the operand is neither an id, 1 to %d characters of A-Z a-z 0-9 "
            ". _ -, nor a hash, nor -", WORD_MAX);
        return CTL_USAGE;
    }

    return CTL_OK;
}


static ctl_rc_t
option_bad(option_t option, const char *value, const char *allowed)
{
    char  *text;

    text = text_escape(value, strlen(value));
    say("--%s \"%.200s\": %s", long_options[option].name, text, allowed);
    free(text);

    return CTL_USAGE;
}


/* a name is shown to people: text, and no control characters in it */

static bool
name_valid(const char *s)
{
    size_t  i, len;

    len = strlen(s);

    for (i = 0; i < len; i++) {
        if (text_control(s + i, len - i)) {
            return false;
        }
    }

    return len <= NAME_LEN_MAX && text_utf8(s, len);
}


static ctl_rc_t
option_check_expires(ctl_t *ctl, const char *v)
{
    ctl->expires = time_parse(v, ctl->now);

    if (ctl->expires == -1) {
        return option_bad(O_EXPIRES, v, "unix seconds, YYYY-MM-DD, "
                          "YYYY-MM-DDTHH:MM:SSZ, or +N with s, m, h or d are "
                          "allowed");
    }

    if (ctl->expires <= (long long) ctl->now) {
        return option_bad(O_EXPIRES, v, "this time is past; one to come is "
                          "allowed");
    }

    return CTL_OK;
}


static ctl_rc_t
option_check_grace(ctl_t *ctl, const char *v)
{
    ctl->grace = duration_parse(v);

    if (ctl->grace == -1 || ctl->grace > TIME_LIMIT - ctl->now) {
        return option_bad(O_GRACE, v, "0, or a number with s, m, h or d, is "
                          "allowed");
    }

    return CTL_OK;
}


static ctl_rc_t
options_check_record(ctl_t *ctl)
{
    const char  *v;

    v = ctl->value[O_WORKSPACE];

    if (v && !word_valid(v, strlen(v))) {
        return option_bad(O_WORKSPACE, v, "1 to 128 characters of A-Z a-z 0-9 "
                          ". _ - are allowed");
    }

    v = ctl->value[O_NAME];

    if (v && !name_valid(v)) {
        return option_bad(O_NAME, v, "up to 256 bytes of UTF-8 without "
                          "control characters are allowed");
    }

    v = ctl->value[O_RATE];

    if (v && number_parse(v, strlen(v), RATE_MAX) < 1) {
        return option_bad(O_RATE, v, "an integer from 1 to 1000000000, "
                          "requests per minute, is allowed");
    }

    v = ctl->value[O_EXPIRES];

    if (v && option_check_expires(ctl, v) != CTL_OK) {
        return CTL_USAGE;
    }

    v = ctl->value[O_GRACE];

    return v ? option_check_grace(ctl, v) : CTL_OK;
}


static ctl_rc_t
options_check_global(ctl_t *ctl)
{
    long long    n;
    const char  *v, *p;

    ctl->json = ctl->value[O_JSON] != NULL;
    ctl->prefix = "convotic:";
    ctl->timeout = TIMEOUT_DEFAULT;

    v = ctl->value[O_PREFIX];

    if (v) {
        for (p = v; *p > 0x20 && *p < 0x7f && *p != '{' && *p != '}'; p++) {
            /* void */
        }

        if (*p != '\0' || p - v > PREFIX_MAX) {
            return option_bad(O_PREFIX, v, "up to 128 visible ASCII "
                              "characters other than braces are allowed");
        }

        ctl->prefix = v;
    }

    v = ctl->value[O_TIMEOUT];

    if (v) {
        n = number_parse(v, strlen(v), TIMEOUT_MAX);

        if (n < 1) {
            return option_bad(O_TIMEOUT, v, "an integer from 1 to 600, "
                              "seconds, is allowed");
        }

        ctl->timeout = (int) n;
    }

    return CTL_OK;
}


/*
 * An option or, without it, its environment variable; an empty one is none.
 * What it was, for messages; NULL: neither.
 */

static const char *
option_or_env(ctl_t *ctl, option_t option, const char *name, const char *env)
{
    const char  *value;

    if (ctl->value[option]) {
        return name;
    }

    value = getenv(env);

    if (value && *value) {
        ctl->value[option] = value;
        return env;
    }

    return NULL;
}


static ctl_rc_t
servers_parse(ctl_t *ctl)
{
    ctl_rc_t     rc;
    const char  *source;

    source = option_or_env(ctl, O_REDIS, "--redis", "CONVOTIC_REDIS");
    rc = server_parse(&ctl->keys, source ? source : "",
                      source ? ctl->value[O_REDIS]
                             : "redis://127.0.0.1:6379/0");

    if (rc == CTL_OK && ctl->value[O_PASSWORD_FILE]) {
        rc = server_password_file(&ctl->keys, "--password-file",
                                  ctl->value[O_PASSWORD_FILE]);
    }

    source = option_or_env(ctl, O_CACHE_REDIS, "--cache-redis",
                           "CONVOTIC_CACHE_REDIS");

    if (rc == CTL_OK && source) {
        rc = server_parse(&ctl->bodies, source, ctl->value[O_CACHE_REDIS]);
    }

    if (rc == CTL_OK && ctl->value[O_CACHE_PASSWORD_FILE]) {

        if (source == NULL) {
            say("--cache-password-file needs --cache-redis");
            return CTL_USAGE;
        }

        rc = server_password_file(&ctl->bodies, "--cache-password-file",
                                  ctl->value[O_CACHE_PASSWORD_FILE]);
    }

    return rc;
}


static ctl_rc_t
ctl_run(ctl_t *ctl, int argc, char **argv)
{
    ctl_rc_t  rc;

    rc = options_parse(ctl, argc, argv);
    if (rc != CTL_OK) {
        return rc;
    }

    if (ctl->value[O_VERSION]) {
        puts("convoticctl " CONVOTIC_VERSION);
        return CTL_OK;
    }

    if (ctl->value[O_HELP]) {
        usage_print(command_find(argc - optind, argv + optind));
        return CTL_OK;
    }

    if ((rc = command_parse(ctl, argc - optind, argv + optind)) != CTL_OK
        || (rc = options_check_command(ctl)) != CTL_OK
        || (rc = options_check_record(ctl)) != CTL_OK
        || (rc = options_check_global(ctl)) != CTL_OK
        || (rc = servers_parse(ctl)) != CTL_OK)
    {
        return rc;
    }

    return ctl->command->handler(ctl);
}


/*
 * Where 0, 1 or 2 is closed, a socket to Redis would take its number, and the
 * key would be printed there.  Reading and writing now fail instead.
 */

static void
descriptors_reserve(void)
{
    int  fd;

    for (fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1
            && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) == -1)
        {
            exit(CTL_FAILED);
        }
    }
}


int
main(int argc, char **argv)
{
    ctl_t     ctl;
    ctl_rc_t  rc;

    descriptors_reserve();

    /* hiredis writes to sockets without MSG_NOSIGNAL */

    signal(SIGPIPE, SIG_IGN);

    memset(&ctl, 0, sizeof(ctl_t));
    ctl.now = time(NULL);

    rc = ctl_run(&ctl, argc, argv);

    if (rc == CTL_OK && !output_flush()) {
        rc = CTL_FAILED;
    }

    server_free(&ctl.keys);
    server_free(&ctl.bodies);

    return rc;
}
