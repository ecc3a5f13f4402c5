
/*
 * Owns the commands "key ...": each a blocking path from its operand to its
 * result, with the connection, the records and the raw key in its frame.  A
 * new key is printed once, after its record is written, by keys_print() only;
 * if it could not be printed, that is said with the id to revoke.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/crypto.h>

#include "conn.h"
#include "date.h"
#include "key.h"
#include "keys.h"
#include "master.h"
#include "meta.h"
#include "output.h"
#include "record.h"
#include "records.h"
#include "text.h"


/* id, workspace, status, rate, expires, created, name */
#define KEYS_ROW  "%-16s  %-16s  %-9s  %-10s  %-20s  %-20s  %s"


/* a new record with a new key, in memory; key holds KEY_LEN + 1 bytes */

static rc_t
keys_new(const ctl_t *ctl, record_t *r, char *key)
{
    char  id[KEY_ID_LEN + 1], hash[KEY_HASH_LEN + 1];

    memset(r, 0, sizeof(record_t));

    if (key_id(id) != RC_OK || key_generate(key) != RC_OK
        || key_hash(key, hash) != RC_OK)
    {
        return RC_FAILED;
    }

    record_set_hash(r, ctl->prefix, hash);
    record_set(r, F_ID, id);
    record_set(r, F_STATUS, "active");
    record_set_number(r, F_CREATED, ctl->now);

    return RC_OK;
}


/* the record, the key if it is new, and the result's members */

static void
keys_print_json(const ctl_t *ctl, const record_t *r, const char *key,
    json_t *result)
{
    json_t  *json;

    json = record_json(r, ctl->now);

    if (key) {
        json_object_set_new(json, "key", json_string(key));
    }

    json_object_update(json, result);
    output_json(json);
}


/* the only place that prints a raw key; JSON gets the result's members too */

static bool
keys_print(const ctl_t *ctl, const record_t *r, const char *key,
    json_t *result)
{
    if (ctl->json) {
        keys_print_json(ctl, r, key, result);

    } else {
        printf("%-10s %s\n", "key", key);
        record_print(r, ctl->now);
        printf("Keep the key now: it is not stored and cannot be shown "
               "again.\n");
    }

    if (output_flush()) {
        return true;
    }

    output_say("the key %s was created but not shown: revoke it",
               r->field[F_ID].data);

    return false;
}


static rc_t
keys_create(const ctl_t *ctl, conn_t *c, record_t *r, char *key)
{
    const char  *name;

    if (keys_new(ctl, r, key) != RC_OK) {
        return RC_FAILED;
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

    return records_create(c, r);
}


rc_t
keys_create_handler(const ctl_t *ctl)
{
    rc_t       rc;
    char       key[KEY_LEN + 1];
    json_t    *result;
    master_t   m;
    record_t   r;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    meta_warn(&m.conn, ctl->prefix);

    rc = keys_create(ctl, &m.conn, &r, key);

    if (rc == RC_OK) {
        result = json_object();
        rc = master_wait(&m, result);

        if (!keys_print(ctl, &r, key, result)) {
            rc = RC_FAILED;
        }

        json_decref(result);
    }

    OPENSSL_cleanse(key, sizeof(key));
    record_free(&r);
    conn_close(&m.conn);

    return rc;
}


/* by workspace, then from old to new */

static int
keys_compare(const void *one, const void *two)
{
    int              i, rc;
    long long        t[2];
    const text_t    *w[2];
    const record_t  *r[2];

    static const text_t  empty = { "", 0 };

    r[0] = one;
    r[1] = two;

    for (i = 0; i < 2; i++) {
        w[i] = &r[i]->field[F_WORKSPACE];
        w[i] = w[i]->data ? w[i] : &empty;
        t[i] = record_number(r[i], F_CREATED);
    }

    rc = text_compare(w[0], w[1]);

    if (rc == 0) {
        rc = (t[0] > t[1]) - (t[0] < t[1]);
    }

    return rc ? rc : text_compare(&r[0]->redis_key, &r[1]->redis_key);
}


static void
keys_list_row(const record_t *r, time_t now)
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

    } else if (text_is(&r->field[F_STATUS], "active")
               && record_expired(r, now))
    {
        status = "expired";
    }

    printf(KEYS_ROW, text[F_ID], text[F_WORKSPACE], status, text[F_RATE],
           text[F_EXPIRES], text[F_CREATED], text[F_NAME]);

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


static void
keys_list_json(const ctl_t *ctl, const records_t *records)
{
    size_t   i;
    json_t  *json;

    json = json_array();

    for (i = 0; i < records->nelts; i++) {
        json_array_append_new(json, record_json(&records->elts[i], ctl->now));
    }

    output_json(json);
}


static void
keys_list_text(const ctl_t *ctl, const records_t *records)
{
    size_t  i;

    printf(KEYS_ROW "\n", "ID", "WORKSPACE", "STATUS", "RATE", "EXPIRES",
           "CREATED", "NAME");

    for (i = 0; i < records->nelts; i++) {
        keys_list_row(&records->elts[i], ctl->now);
    }
}


rc_t
keys_list_handler(const ctl_t *ctl)
{
    rc_t       rc;
    conn_t     c;
    records_t  records;

    if (!conn_open(&c, &ctl->keys, ctl->timeout)
        || !records_scan(&c, ctl->prefix, F_WORKSPACE,
                         ctl->value[O_WORKSPACE], &records))
    {
        rc = conn_report(&c);
        conn_close(&c);
        return rc;
    }

    conn_close(&c);

    if (records.nelts) {
        qsort(records.elts, records.nelts, sizeof(record_t), keys_compare);
    }

    if (ctl->json) {
        keys_list_json(ctl, &records);

    } else {
        keys_list_text(ctl, &records);
    }

    records_free(&records);

    return RC_OK;
}


rc_t
keys_show_handler(const ctl_t *ctl)
{
    rc_t      rc;
    conn_t    c;
    record_t  r;

    if (!conn_open(&c, &ctl->keys, ctl->timeout)) {
        return conn_report(&c);
    }

    rc = records_find(&c, ctl->prefix, ctl->operand, &r);

    if (rc == RC_OK && ctl->json) {
        output_json(record_json(&r, ctl->now));

    } else if (rc == RC_OK) {
        record_print(&r, ctl->now);
    }

    record_free(&r);
    conn_close(&c);

    return rc;
}


rc_t
keys_check_handler(const ctl_t *ctl)
{
    rc_t  rc;
    bool  genuine;
    char  key[KEY_MAX + 1];

    if (strcmp(ctl->operand, "-") != 0) {
        output_say("key check reads the key from standard input only: give - "
                   "in place of it");
        return RC_USAGE;
    }

    rc = key_read(key);
    if (rc != RC_OK) {
        return rc;
    }

    genuine = key_genuine(key);
    OPENSSL_cleanse(key, sizeof(key));

    if (ctl->json) {
        output_json(json_pack("{s:b}", "genuine", genuine));

    } else {
        puts(genuine ? "genuine: the form and the checksum are right"
                     : "not genuine: the form or the checksum is wrong");
    }

    return genuine ? RC_OK : RC_FAILED;
}


/* the status is written already */

static rc_t
keys_status_done(const ctl_t *ctl, master_t *m, const record_t *r)
{
    rc_t         rc;
    json_t      *result;
    const char  *malformed;

    result = json_object();
    rc = master_wait(m, result);
    malformed = record_judge(r);

    if (malformed) {
        output_say("warning: the gateway refuses this record all the same: %s",
                   malformed);
    }

    if (ctl->json) {
        keys_print_json(ctl, r, NULL, result);

    } else {
        record_print(r, ctl->now);
    }

    json_decref(result);

    return rc;
}


static rc_t
keys_status(const ctl_t *ctl, const char *status)
{
    rc_t      rc;
    master_t  m;
    record_t  r;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    rc = records_find(&m.conn, ctl->prefix, ctl->operand, &r);

    if (rc == RC_OK) {
        rc = records_status(&m.conn, &r, status);
    }

    if (rc == RC_OK) {
        rc = keys_status_done(ctl, &m, &r);
    }

    record_free(&r);
    conn_close(&m.conn);

    return rc;
}


rc_t
keys_enable_handler(const ctl_t *ctl)
{
    return keys_status(ctl, "active");
}


rc_t
keys_disable_handler(const ctl_t *ctl)
{
    return keys_status(ctl, "disabled");
}


rc_t
keys_revoke_handler(const ctl_t *ctl)
{
    return keys_status(ctl, "revoked");
}


/* the record of the key to be replaced must be one that works */

static rc_t
keys_rotate_check(const ctl_t *ctl, const record_t *old)
{
    rc_t         rc;
    char        *id;
    const char  *malformed;

    malformed = record_judge(old);
    id = record_text(old, F_ID);
    rc = RC_FAILED;

    if (malformed) {
        output_say("the record of the key %.200s is malformed, %s; revoke it, "
                   "and create a new one", id, malformed);

    } else if (!text_is(&old->field[F_STATUS], "active")) {
        output_say("the key %s is %s; only an active key is rotated", id,
                   old->field[F_STATUS].data);

    } else if (record_expired(old, ctl->now)) {
        output_say("the key %s has expired; create a new one", id);

    } else {
        rc = RC_OK;
    }

    free(id);

    return rc;
}


/* the new key has the workspace, name, rate and expiry of the old one */

static rc_t
keys_rotate_create(const ctl_t *ctl, conn_t *c, const record_t *old,
    record_t *fresh, char *key)
{
    size_t         i;
    const text_t  *t;

    static const record_field_t  copied[] = {
        F_WORKSPACE, F_NAME, F_RATE, F_EXPIRES
    };

    if (keys_new(ctl, fresh, key) != RC_OK) {
        return RC_FAILED;
    }

    for (i = 0; i < sizeof(copied) / sizeof(copied[0]); i++) {
        t = &old->field[copied[i]];

        if (t->data) {
            text_set(&fresh->field[copied[i]], t->data, t->len);
        }
    }

    return records_create(c, fresh);
}


/* until when the old key works: never later than it would have without us */

static long long
keys_rotate_expires(const ctl_t *ctl, const record_t *old)
{
    long long  expires, grace_end;

    expires = record_number(old, F_EXPIRES);
    grace_end = ctl->now + ctl->grace;

    return (expires == -1 || expires > grace_end) ? grace_end : expires;
}


/*
 * The old key goes only if it is as it was read.  If another change came
 * first, a revocation say, the new key is revoked, for it must not outlive
 * that, and *keep is false.
 */

static rc_t
keys_rotate_retire(const ctl_t *ctl, conn_t *c, record_t *old,
    record_t *fresh, bool *keep)
{
    rc_t             rc;
    char            *word, value[24];
    record_field_t   field;

    if (ctl->grace > 0) {
        field = F_EXPIRES;
        snprintf(value, sizeof(value), "%lld", keys_rotate_expires(ctl, old));

    } else {
        field = F_STATUS;
        snprintf(value, sizeof(value), "revoked");
    }

    word = records_retire(c, old, field, value);
    rc = RC_FAILED;

    if (word == NULL) {
        output_say("%s: %s; the new key works, but the old one may work "
                   "still: revoke it", c->server->shown, c->error);

    } else if (strcmp(word, "ok") == 0) {
        record_set(old, field, value);
        rc = RC_OK;

    } else {
        output_say("the key %s was changed by another meanwhile; nothing is "
                   "rotated", old->field[F_ID].data);
        (void) records_status(c, fresh, "revoked");
        *keep = false;
    }

    free(word);

    return rc;
}


static rc_t
keys_rotate_done(const ctl_t *ctl, master_t *m, record_t *old,
    record_t *fresh, const char *key)
{
    rc_t     rc;
    bool     keep;
    char    *text;
    json_t  *result;

    keep = true;
    rc = keys_rotate_retire(ctl, &m->conn, old, fresh, &keep);

    if (!keep) {
        return rc;
    }

    result = json_object();
    json_object_set_new(result, "replaced", record_json(old, ctl->now));

    if (rc == RC_OK) {
        rc = master_wait(m, result);
    }

    if (!keys_print(ctl, fresh, key, result)) {
        rc = RC_FAILED;
    }

    json_decref(result);

    if (!ctl->json && rc != RC_FAILED) {
        text = record_text(old, F_EXPIRES);
        printf(ctl->grace > 0 ? "The old key %s works until %s.\n"
                              : "The old key %s is revoked.\n",
               old->field[F_ID].data, text);
        free(text);
    }

    return rc;
}


rc_t
keys_rotate_handler(const ctl_t *ctl)
{
    rc_t      rc;
    char      key[KEY_LEN + 1];
    master_t  m;
    record_t  old, fresh;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    memset(&fresh, 0, sizeof(record_t));

    rc = records_find(&m.conn, ctl->prefix, ctl->operand, &old);

    if (rc == RC_OK) {
        rc = keys_rotate_check(ctl, &old);
    }

    if (rc == RC_OK) {
        meta_warn(&m.conn, ctl->prefix);
        rc = keys_rotate_create(ctl, &m.conn, &old, &fresh, key);
    }

    if (rc == RC_OK) {
        rc = keys_rotate_done(ctl, &m, &old, &fresh, key);
    }

    OPENSSL_cleanse(key, sizeof(key));
    record_free(&fresh);
    record_free(&old);
    conn_close(&m.conn);

    return rc;
}
