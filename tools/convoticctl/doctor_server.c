
/*
 * Owns the checks of a server and of its user: is it up, new enough, a master
 * by itself, and does it run for this user what the gateway sends.  Nothing is
 * changed by them.  Called by doctor.c, first for each side.
 */


#include <stdlib.h>
#include <string.h>

#include "doctor_server.h"
#include "master.h"
#include "mem.h"
#include "text.h"


#define DOCTOR_WORDS  8                 /* of a probe */


/*
 * What the gateway sends, one row per command; CLIENT SETNAME is missing, for
 * its refusal does no harm.  They change nothing: no workspace has a colon in
 * its name, so the names with ":doctor:" are absent, XX sets nothing that is
 * absent, and DEL removes nothing.  "%" stands for the prefix.
 */

#define DOCTOR_NO_HASH                                                        \
    "0000000000000000000000000000000000000000000000000000000000000000"
#define DOCTOR_NO_SHA1  "0000000000000000000000000000000000000000"

static const char *const  doctor_server_keys[][DOCTOR_WORDS] = {
    { "EXISTS", "%meta" },
    { "HGETALL", "%key:" DOCTOR_NO_HASH },
    { "GET", "%gen:{:doctor:}" },
    { "EVAL", "redis.call('GET', KEYS[1]) "
              "redis.call('TIME') "
              "return redis.call('SET', KEYS[1], '1', 'XX')",
      "1", "%gen:{:doctor:}" },
    { NULL }
};

static const char *const  doctor_server_bodies[][DOCTOR_WORDS] = {
    { "GET", "%body:v1:{:doctor:}:" },
    { "SET", "%body:v1:{:doctor:}:", "1", "XX", "PX", "1" },
    { NULL }
};

static const char *const  doctor_server_lock_probes[][DOCTOR_WORDS] = {
    { "SET", "%lock:v1:{:doctor:}:", "1", "XX", "PX", "1" },
    { "EVAL", "redis.call('GET', KEYS[1]) "
              "return redis.call('DEL', KEYS[1])",
      "1", "%lock:v1:{:doctor:}:" },
    { NULL }
};


/* EVALSHA of nothing: what is asked is whether it may be */

static const char *const  doctor_server_lease_probes[][DOCTOR_WORDS] = {
    { "EVAL", "redis.call('TIME') "
              "redis.call('GET', KEYS[1]) "
              "return redis.call('SET', KEYS[1], '1', 'XX', 'PX', '1')",
      "1", "%rate:v1:" DOCTOR_NO_HASH },
    { "EVALSHA", DOCTOR_NO_SHA1, "1", "%rate:v1:" DOCTOR_NO_HASH },
    { NULL }
};


static void
doctor_server_reach(side_t *side, const server_t *server)
{
    long long    start;
    const char  *ping[2] = { "PING", NULL };

    start = conn_msec();

    if (conn_open(&side->conn, server, side->ctl->timeout)
        && conn_do(&side->conn, REDIS_REPLY_STATUS, ping))
    {
        side->up = true;
        side_say(side, SIDE_OK, "reach", "%s answers in %lld ms",
                 server->shown, conn_msec() - start);

    } else {
        side_say(side, SIDE_FAIL, "reach", "%s: %s", server->shown,
                 side->conn.error);
    }
}


/* the gateway asks the key server alone */

static void
doctor_server_info(side_t *side)
{
    redisReply  *reply;
    const char  *argv[2] = { "INFO", NULL };

    reply = conn_ask(&side->conn, REDIS_REPLY_STRING, argv);

    if (reply) {
        side->info = mem_copy(reply->str, reply->len);
        freeReplyObject(reply);

    } else if (side->is_keys) {
        side_say(side, SIDE_FAIL, "info", "the gateway cannot tell a restarted "
                 "server and refuses this one: %s", side->conn.error);

    } else {
        side_say(side, SIDE_WARN, "info", "version, policy and memory are not "
                 "known: %s", side->conn.error);
    }
}


static void
doctor_server_version(side_t *side)
{
    char         version[32], mode[32];
    const char  *engine;

    engine = "Valkey";

    if (!side_info(side, "valkey_version", version, sizeof(version))) {
        engine = "Redis";

        if (!side_info(side, "redis_version", version, sizeof(version))) {
            return;
        }
    }

    if (atoi(version) < 6) {
        side_say(side, SIDE_FAIL, "version", "%s %s: 6.0 or later is needed, "
                 "for CLIENT TRACKING and ACLs", engine, version);

    } else {
        side_say(side, SIDE_OK, "version", "%s %s", engine, version);
    }

    /* the second is Valkey's */

    if ((side_info(side, "redis_mode", mode, sizeof(mode))
         || side_info(side, "server_mode", mode, sizeof(mode)))
        && strcmp(mode, "standalone") != 0)
    {
        side_say(side, SIDE_FAIL, "mode", "this server runs in %s mode; name "
                 "a standalone server or its master", mode);
    }
}


static void
doctor_server_role(side_t *side)
{
    long long  replicas;

    replicas = master_role(&side->conn);
    side->master = (replicas != -1);

    if (replicas < 0) {

        /* the gateway does not ask the role of the bodies' server */

        side_say(side, replicas == -1 || side->is_keys ? SIDE_FAIL : SIDE_WARN,
                 "role", "%s", side->conn.error);

    } else if (replicas == 0 && side->is_keys) {
        side_say(side, SIDE_WARN, "role", "master without a replica: if it is "
                 "lost, keys and revocations since the last save are lost; "
                 "attach one");

    } else {
        side_say(side, SIDE_OK, "role", "master, replicas: %lld", replicas);
    }
}


/* an argument is freed where it is a copy with the prefix */

static redisReply *
doctor_server_probe(side_t *side, const char *const *probe)
{
    int          i;
    char        *copies[DOCTOR_WORDS];
    redisReply  *reply;
    const char  *argv[DOCTOR_WORDS + 1];

    for (i = 0; i < DOCTOR_WORDS && probe[i] != NULL; i++) {
        copies[i] = NULL;
        argv[i] = probe[i];

        if (probe[i][0] == '%') {
            copies[i] = text_format("%s%s", side->ctl->prefix, probe[i] + 1);
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


/* false: it is refused, side->conn.error says why */

static bool
doctor_server_allowed(side_t *side, const char *const *probe)
{
    bool         allowed;
    redisReply  *reply;

    reply = doctor_server_probe(side, probe);
    if (reply == NULL) {
        return false;
    }

    allowed = (reply->type != REDIS_REPLY_ERROR
               || strncmp(reply->str, "NOSCRIPT", 8) == 0);

    if (!allowed) {
        conn_error_reply(&side->conn, reply);
    }

    freeReplyObject(reply);

    return allowed;
}


static void
doctor_server_commands(side_t *side)
{
    int                 i, refused;
    const char *const (*probes)[DOCTOR_WORDS];

    probes = side->is_keys ? doctor_server_keys : doctor_server_bodies;
    refused = 0;

    for (i = 0; probes[i][0] != NULL; i++) {

        if (!doctor_server_allowed(side, probes[i])) {
            refused++;
            side_say(side, SIDE_FAIL, "commands", "%s is refused: %s",
                     probes[i][0], side->conn.error);
        }
    }

    if (refused == 0) {
        side_say(side, SIDE_OK, "commands", "the user may run the %d commands "
                 "that were tried", i);
    }
}


/* the gateway works without them */

void
doctor_server_leases(side_t *side)
{
    int  i;

    for (i = 0; doctor_server_lease_probes[i][0] != NULL; i++) {

        if (!doctor_server_allowed(side, doctor_server_lease_probes[i])) {
            side_say(side, SIDE_WARN, "leases", "%s is refused, so nodes do "
                     "not share a key's rate: convotic_rate_fallback says "
                     "what each does: %s; +evalsha +eval +get +set +time and "
                     "~%srate:* are needed", doctor_server_lease_probes[i][0],
                     side->conn.error, side->ctl->prefix);
            return;
        }
    }

    side_say(side, SIDE_OK, "leases", "the user may lease of a key's rate");
}


void
doctor_server_locks(side_t *side)
{
    int  i;

    for (i = 0; doctor_server_lock_probes[i][0] != NULL; i++) {

        if (!doctor_server_allowed(side, doctor_server_lock_probes[i])) {
            side_say(side, SIDE_WARN, "locks", "%s is refused, so each node "
                     "fetches for itself what others fetch too: %s; +set +get "
                     "+del +eval and ~%slock:* are needed",
                     doctor_server_lock_probes[i][0], side->conn.error,
                     side->ctl->prefix);
            return;
        }
    }

    side_say(side, SIDE_OK, "locks", "the user may take and release them");
}


bool
doctor_server(side_t *side, const server_t *server)
{
    doctor_server_reach(side, server);

    if (!side->up) {
        return false;
    }

    doctor_server_info(side);
    doctor_server_version(side);
    doctor_server_role(side);

    if (side->master) {
        doctor_server_commands(side);
    }

    return true;
}
