
/*
 * Owns the checks of configuration: eviction, memory, persistence, and that
 * keys and bodies do not share a server, for no policy suits both.  They read
 * side->info, and ask once over side->conn.  Called by doctor.c after
 * doctor_server().
 */


#include <stdlib.h>
#include <string.h>

#include "doctor_policy.h"


/* what is on disk */

typedef enum {
    PERSISTENCE_UNKNOWN = 0,
    PERSISTENCE_NONE,
    PERSISTENCE_RDB,
    PERSISTENCE_AOF
} doctor_persistence_t;


void
doctor_policy_keys(side_t *side)
{
    char       policy[64];
    long long  max, used;

    if (!side_info(side, "maxmemory_policy", policy, sizeof(policy))) {
        side_say(side, SIDE_WARN, "eviction", "the eviction policy is not "
                 "known, as INFO does not tell; it must be noeviction");
        return;
    }

    max = side_info_number(side, "maxmemory");
    used = side_info_number(side, "used_memory");

    if (strcmp(policy, "noeviction") != 0) {
        side_say(side, SIDE_FAIL, "eviction", "maxmemory-policy is %s, which "
                 "may drop keys, generations or rate windows; set noeviction",
                 policy);

    } else if (max > 0 && used > max / 10 * 9) {
        side_say(side, SIDE_WARN, "eviction", "%lld of %lld bytes of maxmemory "
                 "are used; when full, revocations and purges fail: raise "
                 "maxmemory", used, max);

    } else {
        side_say(side, SIDE_OK, "eviction", "noeviction");
    }
}


void
doctor_policy_bodies(side_t *side)
{
    char       policy[64];
    long long  max;

    if (!side_info(side, "maxmemory_policy", policy, sizeof(policy))) {
        side_say(side, SIDE_WARN, "eviction", "the eviction policy is not "
                 "known, as INFO does not tell; it should be allkeys-lru, with "
                 "a maxmemory");
        return;
    }

    max = side_info_number(side, "maxmemory");

    if (strncmp(policy, "allkeys-", 8) != 0) {
        side_say(side, SIDE_WARN, "eviction", "maxmemory-policy is %s; set "
                 "allkeys-lru, or the cache stops when its memory is full",
                 policy);

    } else if (max <= 0) {
        side_say(side, SIDE_WARN, "eviction", "maxmemory is not set, so "
                 "nothing bounds the cache; set it");

    } else {
        side_say(side, SIDE_OK, "eviction", "%s at %lld bytes", policy, max);
    }
}


static doctor_persistence_t
doctor_persistence(side_t *side)
{
    redisReply            *reply;
    const char            *argv[4] = { "CONFIG", "GET", "save", NULL };
    doctor_persistence_t   persistence;

    if (side_info_number(side, "aof_enabled") == 1) {
        return PERSISTENCE_AOF;
    }

    persistence = PERSISTENCE_UNKNOWN;
    reply = conn_ask(&side->conn, REDIS_REPLY_ARRAY, argv);

    if (reply && reply->elements == 2
        && reply->element[1]->type == REDIS_REPLY_STRING)
    {
        persistence = reply->element[1]->len ? PERSISTENCE_RDB
                                             : PERSISTENCE_NONE;
    }

    freeReplyObject(reply);

    return persistence;
}


/* the first that is not "ok", or NULL */

static const char *
doctor_persistence_trouble(const side_t *side)
{
    char    status[32];
    size_t  i;

    static const char *const  states[] = {
        "rdb_last_bgsave_status", "aof_last_write_status",
        "aof_last_bgrewrite_status"
    };

    for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (side_info(side, states[i], status, sizeof(status))
            && strcmp(status, "ok") != 0)
        {
            return states[i];
        }
    }

    return NULL;
}


void
doctor_policy_persistence(side_t *side)
{
    const char            *state;
    doctor_persistence_t   persistence;

    persistence = doctor_persistence(side);

    if (persistence == PERSISTENCE_UNKNOWN) {
        side_say(side, SIDE_WARN, "persistence", "appendonly is off, and "
                 "CONFIG GET save is refused; see that RDB saves or appendonly "
                 "are on");
        return;
    }

    if (persistence == PERSISTENCE_NONE) {
        side_say(side, SIDE_WARN, "persistence", "neither RDB saves nor "
                 "appendonly are on: a restart loses every key; set appendonly "
                 "yes");
        return;
    }

    state = doctor_persistence_trouble(side);

    if (state) {
        side_say(side, SIDE_WARN, "persistence", "%s is not ok: see the "
                 "server's log and disk", state);
        return;
    }

    side_say(side, SIDE_OK, "persistence", "%s",
             persistence == PERSISTENCE_AOF ? "appendonly is on"
                                            : "RDB saves are on");
}


void
doctor_policy_apart(side_t *both, const side_t *keys, const side_t *bodies)
{
    char  one[64], two[64];

    static const char  why[] =
        "bodies evict keys, generations and rate windows, or fill the memory "
        "until revocations fail";

    if (both->ctl->value[O_CACHE_REDIS] == NULL) {
        side_say(both, SIDE_FAIL, "apart", "keys and bodies share one server: "
                 "%s; run a second server and name it with --cache-redis and "
                 "convotic_cache_redis", why);
        return;
    }

    if (!keys->up || !bodies->up) {
        return;
    }

    if (!side_info(keys, "run_id", one, sizeof(one))
        || !side_info(bodies, "run_id", two, sizeof(two)))
    {
        side_say(both, SIDE_WARN, "apart", "whether keys and bodies are on one "
                 "server is not known, as INFO does not tell");

    } else if (strcmp(one, two) == 0) {
        side_say(both, SIDE_FAIL, "apart", "both URLs lead to the same server "
                 "(databases do not help): %s; run a second server", why);

    } else {
        side_say(both, SIDE_OK, "apart", "keys and bodies are on two servers");
    }
}
