
/*
 * Owns the fields of a record: their names, their forms, what the gateway
 * refuses (ngx_convotic_auth.c judges alike), and how they are shown.  Others
 * may have written a record, so any byte may be in any field.  A record_t
 * lives in its command's frame or in an array, and owns its texts.  records.c
 * reads and writes them in Redis.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "date.h"
#include "record.h"


#define RECORD_DIGITS  12               /* of a number, for the gateway */


const char *const  record_fields[F_COUNT] = {
    "id", "workspace", "status", "rate", "expires", "name", "created"
};


/* 0: the field is no number */

static const long long  record_max[F_COUNT] = {
    [F_RATE] = RECORD_RATE_MAX,
    [F_EXPIRES] = DATE_MAX,
    [F_CREATED] = DATE_MAX
};


void
record_free(record_t *r)
{
    int  i;

    free(r->redis_key.data);

    for (i = 0; i < F_COUNT; i++) {
        free(r->field[i].data);
    }

    memset(r, 0, sizeof(record_t));
}


void
record_set(record_t *r, record_field_t field, const char *text)
{
    text_set(&r->field[field], text, strlen(text));
}


void
record_set_number(record_t *r, record_field_t field, long long n)
{
    char  text[24];

    snprintf(text, sizeof(text), "%lld", n);
    record_set(r, field, text);
}


void
record_set_hash(record_t *r, const char *prefix, const char *hash)
{
    char  *name;

    name = text_format("%skey:%s", prefix, hash);
    text_set(&r->redis_key, name, strlen(name));
    snprintf(r->hash, sizeof(r->hash), "%s", hash);
    free(name);
}


void
record_set_name(record_t *r, const text_t *redis_key, size_t prefix_len)
{
    size_t       len;
    const char  *hash;

    memset(r, 0, sizeof(record_t));
    text_set(&r->redis_key, redis_key->data, redis_key->len);

    if (redis_key->len < prefix_len) {
        return;
    }

    hash = redis_key->data + prefix_len;
    len = redis_key->len - prefix_len;

    if (key_hash_valid(hash, len)) {
        memcpy(r->hash, hash, len);
    }
}


const char *const *
record_command(const char **argv, const char *redis_key)
{
    argv[0] = "HMGET";
    argv[1] = redis_key;
    memcpy(&argv[2], record_fields, sizeof(record_fields));
    argv[2 + F_COUNT] = NULL;

    return argv;
}


void
record_fill(record_t *r, const redisReply *reply)
{
    size_t             i;
    const redisReply  *elt;

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY
        || reply->elements != F_COUNT)
    {
        r->wrong_type = true;
        return;
    }

    for (i = 0; i < F_COUNT; i++) {
        elt = reply->element[i];

        if (elt->type == REDIS_REPLY_STRING) {
            text_set(&r->field[i], elt->str, elt->len);
        }
    }
}


bool
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


/* the gateway takes up to 12 digits, and does not mind leading zeros */

long long
record_number(const record_t *r, record_field_t field)
{
    size_t         zeros;
    const text_t  *t;

    t = &r->field[field];

    if (t->data == NULL || t->len == 0 || t->len > RECORD_DIGITS) {
        return -1;
    }

    zeros = strspn(t->data, "0");
    zeros -= (zeros == t->len);

    return text_number(t->data + zeros, t->len - zeros, record_max[field]);
}


static bool
record_word(const record_t *r, record_field_t field)
{
    const text_t  *t;

    t = &r->field[field];

    return t->data != NULL && text_word(t->data, t->len);
}


/* for people only, but the gateway refuses an absurd one */

static bool
record_text_sane(const record_t *r, record_field_t field)
{
    size_t         i;
    const text_t  *t;

    t = &r->field[field];

    for (i = 0; i < t->len; i++) {
        if ((unsigned char) t->data[i] < 0x20) {
            return false;
        }
    }

    return t->len <= RECORD_TEXT_MAX;
}


const char *
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

    if (!text_is(&r->field[F_STATUS], "active")
        && !text_is(&r->field[F_STATUS], "disabled")
        && !text_is(&r->field[F_STATUS], "revoked"))
    {
        return "its status is missing or unknown";
    }

    if (r->field[F_RATE].data && record_number(r, F_RATE) < 1) {
        return "its rate is malformed";
    }

    if (r->field[F_EXPIRES].data && record_number(r, F_EXPIRES) == -1) {
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


const char *
record_incomplete(const record_t *r)
{
    if (r->field[F_NAME].data == NULL
        || r->field[F_NAME].len > RECORD_NAME_MAX)
    {
        return "its name is missing or too long";
    }

    if (record_number(r, F_CREATED) == -1) {
        return "its created is missing or no number of seconds";
    }

    return NULL;
}


bool
record_expired(const record_t *r, time_t now)
{
    return r->field[F_EXPIRES].data
           && record_number(r, F_EXPIRES) <= (long long) now;
}


static json_t *
record_json_field(const record_t *r, record_field_t field)
{
    long long      n;
    const text_t  *t;

    t = &r->field[field];

    if (record_max[field] == 0) {
        return t->data ? text_json(t->data, t->len) : json_null();
    }

    n = record_number(r, field);

    return n == -1 ? json_null() : json_integer(n);
}


/* NULL becomes null */

static json_t *
record_json_string(const char *s)
{
    return s ? json_string(s) : json_null();
}


json_t *
record_json(const record_t *r, time_t now)
{
    int      i;
    json_t  *json;

    json = json_object();

    for (i = 0; i < F_COUNT; i++) {
        json_object_set_new(json, record_fields[i], record_json_field(r, i));
    }

    json_object_set_new(json, "hash",
                        record_json_string(r->hash[0] ? r->hash : NULL));
    json_object_set_new(json, "expired",
                        json_boolean(record_expired(r, now)));
    json_object_set_new(json, "malformed",
                        record_json_string(record_judge(r)));
    json_object_set_new(json, "incomplete",
                        record_json_string(record_incomplete(r)));

    return json;
}


char *
record_text(const record_t *r, record_field_t field)
{
    char           buf[32];
    long long      n;
    const text_t  *t;

    t = &r->field[field];

    if (t->data == NULL && field == F_RATE) {
        return text_format("default");
    }

    if (t->data == NULL && field == F_EXPIRES) {
        return text_format("never");
    }

    if (t->len == 0) {
        return text_format("-");
    }

    if (field == F_EXPIRES || field == F_CREATED) {
        n = record_number(r, field);

        if (n != -1) {
            return text_format("%s", date_text(n, buf, sizeof(buf)));
        }
    }

    return text_escape(t->data, t->len);
}


void
record_print(const record_t *r, time_t now)
{
    int          i;
    char        *text;
    const char  *malformed, *incomplete;

    for (i = 0; i < F_COUNT; i++) {
        text = record_text(r, i);
        printf("%-10s %s%s\n", record_fields[i], text,
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
