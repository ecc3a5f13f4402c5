
/*
 * Owns the access to records in Redis: by hash, by walking over all, and by
 * the three scripts that write.  Between reading and writing a record others
 * may change or delete it: each script judges again what it relies on.  A
 * records_t lives in its command's frame and owns its records.  Called by
 * keys.c, rate.c and doctor_store.c.
 */


#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "key.h"
#include "master.h"
#include "mem.h"
#include "output.h"
#include "records.h"


static const char  records_script_create[] =
    "if redis.call('EXISTS', KEYS[1]) == 1 then return 'exists' end "
    "redis.call('HSET', KEYS[1], unpack(ARGV)) "
    "return 'ok'";


/*
 * A status is written even where it is there already: the write is what WAIT
 * waits for, and what tells the gateways once more.
 */

static const char  records_script_status[] =
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

static const char  records_script_retire[] =
    "if redis.call('EXISTS', KEYS[1]) == 0 then return 'absent' end "
    "local r = redis.call('HMGET', KEYS[1], 'status', 'expires') "
    "if r[1] ~= 'active' or (r[2] or '') ~= ARGV[1] then "
    "return 'changed' end "
    "redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) "
    "return 'ok'";


void
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
    records->elts = mem_grow(records->elts, records->nelts, &records->nalloc,
                             sizeof(record_t));
    records->elts[records->nelts++] = *r;
}


/* of a reply to HMGET; keeps those wanted */

static void
records_visit(void *data, const text_t *name, const redisReply *reply)
{
    record_t    r;
    records_t  *records;

    records = data;

    record_set_name(&r, name, records->prefix_len);
    record_fill(&r, reply);

    if (records->value
        && !text_is(&r.field[records->field], records->value))
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
records_visit_empty(void *data, const text_t *name, const redisReply *reply)
{
    record_t    r;
    records_t  *records;

    records = data;

    if (reply && reply->type == REDIS_REPLY_INTEGER && reply->integer != 0) {
        record_set_name(&r, name, records->prefix_len);
        records_push(records, &r);
    }
}


bool
records_scan(conn_t *c, const char *prefix, record_field_t field,
    const char *value, records_t *records)
{
    bool         ok;
    names_t      names;
    const char  *hmget[3 + F_COUNT], *exists[3] = { "EXISTS", NULL, NULL };

    memset(records, 0, sizeof(records_t));
    records->prefix_len = strlen(prefix) + sizeof("key:") - 1;
    records->field = field;
    records->value = value;

    if (!names_scan(c, prefix, "key:", &names)) {
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


/* the record of a hash; a hash without our fields is a record all the same */

static rc_t
records_read(conn_t *c, const char *prefix, const char *hash, record_t *r)
{
    bool         ok;
    long long    n;
    redisReply  *reply;
    const char  *hmget[3 + F_COUNT], *exists[3] = { "EXISTS", NULL, NULL };

    record_set_hash(r, prefix, hash);
    exists[1] = r->redis_key.data;

    ok = false;
    n = 1;
    reply = conn_ask(c, REDIS_REPLY_ARRAY,
                     record_command(hmget, r->redis_key.data));

    if (reply && reply->elements != F_COUNT) {
        conn_fail(c, "an unexpected answer to HMGET");

    } else if (reply) {
        record_fill(r, reply);
        ok = !record_empty(r) || conn_integer(c, exists, &n);
    }

    freeReplyObject(reply);

    return !ok ? conn_report(c) : n != 0 ? RC_OK : RC_NOT_FOUND;
}


static rc_t
records_find_id(conn_t *c, const char *prefix, const char *id, record_t *r)
{
    rc_t       rc;
    records_t  found;

    if (!records_scan(c, prefix, F_ID, id, &found)) {
        return conn_report(c);
    }

    rc = RC_FAILED;

    if (found.nelts == 0) {
        rc = RC_NOT_FOUND;

    } else if (found.nelts > 1) {
        output_say("the id %s is in %zu records; name one by its hash, as "
                   "\"key list --json\" shows it", id, found.nelts);

    } else if (found.elts[0].hash[0] == '\0') {
        output_say("the record of the id %s is malformed: its name does not "
                   "end in a SHA-256", id);

    } else {
        *r = found.elts[0];
        found.nelts = 0;
        rc = RC_OK;
    }

    records_free(&found);

    return rc;
}


static rc_t
records_find_stdin(conn_t *c, const char *prefix, record_t *r)
{
    rc_t  rc;
    bool  genuine;
    char  key[KEY_MAX + 1], hash[KEY_HASH_LEN + 1];

    rc = key_read(key);
    if (rc != RC_OK) {
        return rc;
    }

    rc = key_hash(key, hash);
    genuine = key_genuine(key);
    OPENSSL_cleanse(key, sizeof(key));

    if (rc == RC_OK) {
        rc = records_read(c, prefix, hash, r);
    }

    if (rc == RC_NOT_FOUND) {
        output_say("no record of the key on standard input%s",
                   genuine ? "" : ", whose form or checksum is wrong");
    }

    return rc;
}


rc_t
records_find(conn_t *c, const char *prefix, const char *operand, record_t *r)
{
    rc_t  rc;

    memset(r, 0, sizeof(record_t));

    if (strcmp(operand, "-") == 0) {
        return records_find_stdin(c, prefix, r);
    }

    rc = RC_NOT_FOUND;

    if (key_hash_valid(operand, strlen(operand))) {
        rc = records_read(c, prefix, operand, r);
    }

    if (rc == RC_NOT_FOUND) {
        record_free(r);
        rc = records_find_id(c, prefix, operand, r);
    }

    if (rc == RC_NOT_FOUND) {
        output_say("no record of the key %s", operand);
    }

    return rc;
}


rc_t
records_create(conn_t *c, const record_t *r)
{
    int          i, n;
    rc_t         rc;
    char        *word;
    const char  *argv[5 + 2 * F_COUNT] = { "EVAL", records_script_create, "1",
                                           r->redis_key.data };

    for (i = 0, n = 4; i < F_COUNT; i++) {
        if (r->field[i].data) {
            argv[n++] = record_fields[i];
            argv[n++] = r->field[i].data;
        }
    }

    argv[n] = NULL;

    word = master_script(c, argv);
    rc = RC_FAILED;

    if (word == NULL && c->redis == NULL) {
        output_say("%s: %s; whether the key %s was written is not known: see "
                   "\"key show %s\", and revoke it if it is there",
                   c->server->shown, c->error, r->field[F_ID].data,
                   r->field[F_ID].data);

    } else if (word == NULL) {
        conn_report(c);

    } else if (strcmp(word, "ok") != 0) {
        output_say("a record of this key is there already; nothing is "
                   "written");

    } else {
        rc = RC_OK;
    }

    free(word);

    return rc;
}


rc_t
records_status(conn_t *c, record_t *r, const char *status)
{
    rc_t         rc;
    char        *word, *id;
    const char  *argv[6] = { "EVAL", records_script_status, "1",
                             r->redis_key.data, status, NULL };

    word = master_script(c, argv);
    if (word == NULL) {
        return conn_report(c);
    }

    id = record_text(r, F_ID);
    rc = RC_FAILED;

    if (strcmp(word, "ok") == 0) {
        record_set(r, F_STATUS, status);
        rc = RC_OK;

    } else if (strcmp(word, "revoked") == 0) {
        output_say("the key %.200s is revoked, which is final; create a new "
                   "one", id);

    } else if (strcmp(word, "absent") == 0) {
        output_say("the record of the key %.200s was deleted meanwhile", id);
        rc = RC_NOT_FOUND;

    } else {
        output_say("the status of the key %.200s is neither active nor "
                   "disabled; revoke it, and create a new one", id);
    }

    free(id);
    free(word);

    return rc;
}


char *
records_retire(conn_t *c, const record_t *r, record_field_t field,
    const char *value)
{
    const char  *argv[8] = { "EVAL", records_script_retire, "1",
                             r->redis_key.data, "", record_fields[field],
                             value, NULL };

    if (r->field[F_EXPIRES].data) {
        argv[4] = r->field[F_EXPIRES].data;
    }

    return master_script(c, argv);
}
