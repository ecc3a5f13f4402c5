
/*
 * Owns the promise of a write: it is made on a master, by one script, so that
 * it is atomic and brings no deleted record back, on one Redis key wherever
 * that is enough; and what a failover would do to it is told.  A master_t lives
 * in its command's frame: meta.c, cache.c, keys.c, rate.c.
 */


#include <stdlib.h>
#include <string.h>

#include "master.h"
#include "mem.h"
#include "output.h"
#include "text.h"


#define MASTER_WAIT_REPLICAS  "1"
#define MASTER_WAIT_TIMEOUT   "100"     /* milliseconds */


long long
master_role(conn_t *c)
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


bool
master_open(master_t *m, const server_t *server, int timeout)
{
    if (conn_open(&m->conn, server, timeout)) {
        m->replicas = master_role(&m->conn);

        if (m->replicas >= 0) {
            return true;
        }
    }

    conn_report(&m->conn);
    conn_close(&m->conn);

    return false;
}


char *
master_script(conn_t *c, const char *const *argv)
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


redisReply *
master_script_pair(conn_t *c, const char *script, const char *name,
    const char *arg)
{
    redisReply  *reply;
    const char  *argv[6] = { "EVAL", script, "1", name, arg, NULL };

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


rc_t
master_wait(master_t *m, json_t *result)
{
    conn_t      *c;
    long long    n;
    const char  *argv[4] = { "WAIT", MASTER_WAIT_REPLICAS,
                             MASTER_WAIT_TIMEOUT, NULL };

    c = &m->conn;
    c->error[0] = '\0';
    n = 0;

    if (m->replicas > 0) {
        (void) conn_integer(c, argv, &n);
    }

    json_object_set_new(result, "replicas", json_integer(m->replicas));
    json_object_set_new(result, "acknowledged", json_integer(n));

    if (m->replicas == 0 || n > 0) {
        return RC_OK;
    }

    if (c->error[0]) {
        output_say("%s: written, but whether a replica has it is not known: "
                   "%s", c->server->shown, c->error);

    } else {
        output_say("%s: written, but none of %lld replicas acknowledged it "
                   "within " MASTER_WAIT_TIMEOUT " ms: a failover now would "
                   "lose it", c->server->shown, m->replicas);
    }

    return RC_UNACKED;
}
