
/*
 * The record of an API key: a Redis hash, judged as the gateway judges it.
 */


#ifndef _CTL_RECORD_H_INCLUDED_
#define _CTL_RECORD_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include <hiredis.h>
#include <jansson.h>

#include "key.h"
#include "text.h"


#define RECORD_NAME_MAX  256            /* bytes of a name of ours */
#define RECORD_TEXT_MAX  1024           /* bytes, or the gateway refuses it */
#define RECORD_RATE_MAX  1000000000LL   /* requests per minute */


typedef enum {
    F_ID = 0,
    F_WORKSPACE,
    F_STATUS,
    F_RATE,
    F_EXPIRES,
    F_NAME,
    F_CREATED,
    F_COUNT
} record_field_t;


extern const char *const  record_fields[F_COUNT];


/* all zeros: empty */

typedef struct {
    text_t   redis_key;                 /* the prefix, "key:" and the hash */
    char     hash[KEY_HASH_LEN + 1];    /* empty: redis_key ends in no hash */
    text_t   field[F_COUNT];
    bool     wrong_type;                /* the Redis key is no hash */
} record_t;


void record_free(record_t *r);

void record_set(record_t *r, record_field_t field, const char *text);
void record_set_number(record_t *r, record_field_t field, long long n);

/* the name of a record of ours */
void record_set_hash(record_t *r, const char *prefix, const char *hash);

/* a name that Redis told; prefix_len counts the prefix and "key:" */
void record_set_name(record_t *r, const text_t *redis_key, size_t prefix_len);

/* argv, of F_COUNT + 3: HMGET, the name, which may come later, all fields */
const char *const *record_command(const char **argv, const char *redis_key);

/* the reply to that, or an error, or NULL; r has its name already */
void record_fill(record_t *r, const redisReply *reply);

/* a hash, or nothing at all, without any of our fields */
bool record_empty(const record_t *r);

/* of rate, expires or created; -1: absent, or no number that is allowed */
long long record_number(const record_t *r, record_field_t field);

/* why the gateway refuses the record, whatever its status; NULL: it does not */
const char *record_judge(const record_t *r);

/* what the gateway does not mind, but people may; NULL: nothing */
const char *record_incomplete(const record_t *r);

bool record_expired(const record_t *r, time_t now);

/* with null for what is absent or no number; a new reference */
json_t *record_json(const record_t *r, time_t now);

/* a field as a line or a column shows it; the caller frees it */
char *record_text(const record_t *r, record_field_t field);

/* a line a field */
void record_print(const record_t *r, time_t now);


#endif /* _CTL_RECORD_H_INCLUDED_ */
