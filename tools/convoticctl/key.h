
/*
 * API keys: "cvtk_live_", 26 random characters in base 62, and 6 of a
 * checksum.  Other forms are valid too, where others have written the record.
 */


#ifndef _CTL_KEY_H_INCLUDED_
#define _CTL_KEY_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>

#include "rc.h"


#define KEY_PREFIX        "cvtk_live_"
#define KEY_RANDOM        26            /* base62 characters, 154 bits */
#define KEY_CHECK         6             /* base62 characters of a CRC-32 */
#define KEY_LEN           (sizeof(KEY_PREFIX) - 1 + KEY_RANDOM + KEY_CHECK)
#define KEY_MAX           256           /* bytes, as the gateway has it */

#define KEY_ID_PREFIX     "key_"
#define KEY_ID_RANDOM     12            /* base62 characters */
#define KEY_ID_LEN        (sizeof(KEY_ID_PREFIX) - 1 + KEY_ID_RANDOM)

#define KEY_HASH_LEN      64            /* SHA-256 in hexadecimal */


/* a new key; holds KEY_LEN + 1 bytes; anything but RC_OK is said */
rc_t key_generate(char *key);

/* a new id; holds KEY_ID_LEN + 1 bytes; anything but RC_OK is said */
rc_t key_id(char *id);

/* the form and the checksum are those of key_generate() */
bool key_genuine(const char *key);

/* holds KEY_HASH_LEN + 1 bytes; anything but RC_OK is said */
rc_t key_hash(const char *key, char *hash);

bool key_hash_valid(const char *s, size_t len);

/*
 * A line of standard input; key holds KEY_MAX + 1 bytes, which the caller
 * cleanses; anything but RC_OK is said
 */
rc_t key_read(char *key);


#endif /* _CTL_KEY_H_INCLUDED_ */
