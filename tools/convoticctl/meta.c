
/*
 * Owns the mark of the key server.  Without it the gateway answers 503, so
 * that a server that came back empty revokes nobody's key.  It is written by
 * "init" only; keys.c warns before it makes a key that no gateway believes,
 * doctor_store.c judges.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "master.h"
#include "meta.h"
#include "output.h"
#include "text.h"


static const char  meta_script_init[] =
    "local s = redis.call('HGET', KEYS[1], 'schema') "
    "if s and s ~= ARGV[1] then return {'other', s} end "
    "redis.call('HSET', KEYS[1], 'schema', ARGV[1]) "
    "return {s and 'present' or 'created', ARGV[1]}";


redisReply *
meta_read(conn_t *c, const char *prefix)
{
    char        *name;
    redisReply  *reply;
    const char  *argv[4] = { "HGET", NULL, "schema", NULL };

    name = text_format("%smeta", prefix);
    argv[1] = name;

    conn_append(c, argv);
    reply = conn_read(c);

    free(name);

    return reply;
}


/* a user may lack the permission to see it: that is no reason to warn */

void
meta_warn(conn_t *c, const char *prefix)
{
    redisReply  *reply;

    reply = meta_read(c, prefix);

    if (reply && (reply->type == REDIS_REPLY_NIL
                  || (reply->type == REDIS_REPLY_STRING
                      && strcmp(reply->str, META_SCHEMA) != 0)
                  || (reply->type == REDIS_REPLY_ERROR
                      && strstr(reply->str, "WRONGTYPE") != NULL)))
    {
        output_say("warning: %s has no %smeta with schema " META_SCHEMA ", so "
                   "that the gateway believes no record of it; run "
                   "\"convoticctl init\"", c->server->shown, prefix);
    }

    freeReplyObject(reply);
}


/* reply: "other", "present" or "created", and the schema that is there now */

static rc_t
meta_init_done(const ctl_t *ctl, master_t *m, const redisReply *reply)
{
    rc_t               rc;
    bool               created;
    char              *text;
    json_t            *result;
    const redisReply  *schema;

    schema = reply->element[1];

    if (strcmp(reply->element[0]->str, "other") == 0) {
        text = text_escape(schema->str, schema->len);
        output_say("%s: %smeta has schema %.100s; this convoticctl knows "
                   "schema " META_SCHEMA " only", m->conn.server->shown,
                   ctl->prefix, text);
        free(text);
        return RC_FAILED;
    }

    created = strcmp(reply->element[0]->str, "created") == 0;
    result = json_pack("{s:i, s:b}", "schema", atoi(META_SCHEMA),
                       "created", created);
    rc = master_wait(m, result);

    if (ctl->json) {
        output_json(result);

    } else {
        printf("%smeta: schema " META_SCHEMA " %s\n", ctl->prefix,
               created ? "written" : "was there already");
        json_decref(result);
    }

    return rc;
}


rc_t
meta_init_handler(const ctl_t *ctl)
{
    rc_t         rc;
    char        *name;
    master_t     m;
    redisReply  *reply;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    name = text_format("%smeta", ctl->prefix);

    reply = master_script_pair(&m.conn, meta_script_init, name, META_SCHEMA);
    rc = reply ? meta_init_done(ctl, &m, reply) : conn_report(&m.conn);

    freeReplyObject(reply);
    free(name);
    conn_close(&m.conn);

    return rc;
}
