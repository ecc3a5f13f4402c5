
/*
 * Owns the commands "rate ...": the window of a key is read, or replaced by
 * one in which nothing is leased.  The nodes count by leases that they hold,
 * and they tell the server of a window that it has lost; so a reset orders the
 * script to forget what they tell, and writes to the key's record, which makes
 * each of them ask.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "master.h"
#include "output.h"
#include "rate.h"
#include "record.h"
#include "records.h"
#include "text.h"
#include "window.h"


/* what is in Redis under the name of a window */

typedef enum {
    RATE_NONE = 0,
    RATE_OPEN,
    RATE_MALFORMED                      /* the gateway takes it for none */
} rate_state_t;


typedef struct {
    rate_state_t  state;
    long long     leased;
    long long     rest;                 /* milliseconds */
} rate_t;


/*
 * KEYS: the window, the record.  A "*" for the window that was taken up is the
 * order to forget all others; no server is named, and the one that leases next
 * is written.  The status is written as it is, behind the window: who is told
 * of it finds the new one.
 */

static const char  rate_script_reset[] =
    "if redis.call('EXISTS', KEYS[2]) == 0 then return 'absent' end "
    "local s = redis.call('HGET', KEYS[2], 'status') "
    "local t = redis.call('TIME') "
    "local now = t[1] * 1000 + math.floor(t[2] / 1000) "
    "redis.call('SET', KEYS[1], t[1] .. string.format('%06d', t[2]) .. ' ' "
    ".. (now + 60000) .. ' 0 * 0 -', 'PX', 60000) "
    "if s then redis.call('HSET', KEYS[2], 'status', s) end "
    "return 'ok'";


/* the caller frees it */

static char *
rate_name(const ctl_t *ctl, const record_t *r)
{
    return text_format("%srate:v1:%s", ctl->prefix, r->hash);
}


/* the server's clock, unix time in milliseconds; -1: c->error says why */

static long long
rate_now(conn_t *c)
{
    long long     ms;
    redisReply   *reply, **elts;
    const char   *argv[2] = { "TIME", NULL };

    reply = conn_ask(c, REDIS_REPLY_ARRAY, argv);
    if (reply == NULL) {
        return -1;
    }

    elts = reply->element;
    ms = -1;

    if (reply->elements == 2 && elts[0]->type == REDIS_REPLY_STRING
        && elts[1]->type == REDIS_REPLY_STRING)
    {
        ms = atoll(elts[0]->str) * 1000 + atoll(elts[1]->str) / 1000;

    } else {
        conn_fail(c, "an unexpected answer to TIME");
    }

    freeReplyObject(reply);

    return ms;
}


/* reply: to GET; a clock that was set back makes no window longer */

static bool
rate_fill(conn_t *c, const redisReply *reply, rate_t *rate)
{
    window_t   w;
    long long  now;

    if (reply->type == REDIS_REPLY_NIL) {
        return true;
    }

    if (reply->type == REDIS_REPLY_ERROR) {
        rate->state = RATE_MALFORMED;
        conn_error_reply(c, reply);
        return strstr(reply->str, "WRONGTYPE") != NULL;
    }

    if (reply->type != REDIS_REPLY_STRING) {
        conn_fail(c, "an unexpected answer to GET");
        return false;
    }

    if (!window_parse(reply->str, reply->len, &w)) {
        rate->state = RATE_MALFORMED;
        return true;
    }

    now = rate_now(c);

    if (now != -1 && w.end > now) {
        rate->state = RATE_OPEN;
        rate->leased = w.leased;
        rate->rest = w.end - now < WINDOW_MS ? w.end - now : WINDOW_MS;
    }

    return now != -1;
}


/* false: c->error says why */

static bool
rate_read(const ctl_t *ctl, conn_t *c, const record_t *r, rate_t *rate)
{
    bool         ok;
    char        *name;
    redisReply  *reply;
    const char  *argv[3] = { "GET", NULL, NULL };

    memset(rate, 0, sizeof(rate_t));

    name = rate_name(ctl, r);
    argv[1] = name;

    conn_append(c, argv);
    reply = conn_read(c);
    ok = reply && rate_fill(c, reply, rate);

    freeReplyObject(reply);
    free(name);

    return ok;
}


/* of the record's rate; -1: it has none, or none that is allowed */

static long long
rate_left(const record_t *r, const rate_t *rate)
{
    long long  limit;

    limit = record_number(r, F_RATE);

    if (limit == -1) {
        return -1;
    }

    return rate->leased < limit ? limit - rate->leased : 0;
}


static json_t *
rate_json_number(long long n)
{
    return n == -1 ? json_null() : json_integer(n);
}


/* a new reference */

static json_t *
rate_json(const record_t *r, const rate_t *rate)
{
    json_t        *json;
    const text_t  *id;

    static const char *const  states[] = { "none", "open", "malformed" };

    id = &r->field[F_ID];
    json = json_object();

    json_object_set_new(json, "id", id->data ? text_json(id->data, id->len)
                                             : json_null());
    json_object_set_new(json, "hash", json_string(r->hash));
    json_object_set_new(json, "rate",
                        rate_json_number(record_number(r, F_RATE)));
    json_object_set_new(json, "window", json_string(states[rate->state]));
    json_object_set_new(json, "leased", json_integer(rate->leased));
    json_object_set_new(json, "left", rate_json_number(rate_left(r, rate)));
    json_object_set_new(json, "rest", json_integer(rate->rest));

    return json;
}


static void
rate_print(const record_t *r, const rate_t *rate)
{
    char       *id, *limit;
    long long   left;

    static const char *const  states[] = {
        "none is open", "open",
        "malformed; the gateway overwrites it with a new one"
    };

    id = record_text(r, F_ID);
    limit = r->field[F_RATE].data ? record_text(r, F_RATE)
                                  : text_format("the gateway's convotic_rate");
    left = rate_left(r, rate);

    printf("%-10s %s\n", "id", id);
    printf("%-10s %s\n", "rate", limit);
    printf("%-10s %s\n", "window", states[rate->state]);

    if (rate->state == RATE_OPEN) {
        printf("%-10s %lld\n", "leased", rate->leased);

        if (left != -1) {
            printf("%-10s %lld\n", "left", left);
        }

        printf("%-10s %lld.%03lld s\n", "ends in", rate->rest / 1000,
               rate->rest % 1000);
    }

    free(limit);
    free(id);
}


rc_t
rate_show_handler(const ctl_t *ctl)
{
    rc_t      rc;
    conn_t    c;
    rate_t    rate;
    record_t  r;

    if (!conn_open(&c, &ctl->keys, ctl->timeout)) {
        return conn_report(&c);
    }

    rc = records_find(&c, ctl->prefix, ctl->operand, &r);

    if (rc == RC_OK && !rate_read(ctl, &c, &r, &rate)) {
        rc = conn_report(&c);
    }

    if (rc == RC_OK && ctl->json) {
        output_json(rate_json(&r, &rate));

    } else if (rc == RC_OK) {
        rate_print(&r, &rate);
    }

    record_free(&r);
    conn_close(&c);

    return rc;
}


/* the window is written already */

static rc_t
rate_reset_done(const ctl_t *ctl, master_t *m, const record_t *r)
{
    rc_t     rc;
    char    *id;
    rate_t   rate;
    json_t  *json;

    memset(&rate, 0, sizeof(rate_t));
    rate.state = RATE_OPEN;
    rate.rest = WINDOW_MS;

    json = rate_json(r, &rate);
    rc = master_wait(m, json);

    if (ctl->json) {
        output_json(json);

    } else {
        id = record_text(r, F_ID);
        printf("%s: a new window, of which nothing is leased\n", id);
        free(id);
        json_decref(json);
    }

    return rc;
}


static rc_t
rate_reset(const ctl_t *ctl, master_t *m, const record_t *r)
{
    rc_t         rc;
    char        *name, *word, *id;
    const char  *argv[6] = { "EVAL", rate_script_reset, "2", NULL, NULL,
                             NULL };

    name = rate_name(ctl, r);
    argv[3] = name;
    argv[4] = r->redis_key.data;

    word = master_script(&m->conn, argv);
    free(name);

    if (word == NULL) {
        return conn_report(&m->conn);
    }

    if (strcmp(word, "ok") == 0) {
        rc = rate_reset_done(ctl, m, r);

    } else {
        id = record_text(r, F_ID);
        output_say("the record of the key %.200s was deleted meanwhile", id);
        free(id);
        rc = RC_NOT_FOUND;
    }

    free(word);

    return rc;
}


rc_t
rate_reset_handler(const ctl_t *ctl)
{
    rc_t      rc;
    master_t  m;
    record_t  r;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    rc = records_find(&m.conn, ctl->prefix, ctl->operand, &r);

    if (rc == RC_OK) {
        rc = rate_reset(ctl, &m, &r);
    }

    record_free(&r);
    conn_close(&m.conn);

    return rc;
}
