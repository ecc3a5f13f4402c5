
/*
 * Owns the purge: a workspace gets a new generation on the key server, and
 * the gateways serve no body of an older one.  The server of bodies is not
 * asked; what it has of older generations is overwritten or expires.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "master.h"
#include "output.h"
#include "text.h"


/*
 * A generation never returns to a value that was used.  What is absent, has
 * fewer than 16 digits or is no plain integer starts from the server's clock
 * in microseconds, as the gateway's own script has it.
 */

static const char  cache_script_purge[] =
    "local g = redis.call('GET', KEYS[1]) "
    "local plain = g and #g <= 18 and string.match(g, '^%d+$') "
    "if plain and string.match(g, '^[1-9]') and #g >= 16 then "
    "redis.call('INCR', KEYS[1]) "
    "return {'present', redis.call('GET', KEYS[1])} end "
    "local t = redis.call('TIME') "
    "local n = t[1] .. string.format('%06d', t[2]) "
    "redis.call('SET', KEYS[1], n) "
    "return {plain and 'present' or g and 'malformed' or 'absent', n}";


/* reply: "present", "absent" or "malformed", and the new generation */

static rc_t
cache_purge_done(const ctl_t *ctl, master_t *m, const redisReply *reply)
{
    rc_t         rc;
    json_t      *result;
    long long    generation;
    const char  *workspace, *was;

    was = reply->element[0]->str;
    generation = atoll(reply->element[1]->str);
    workspace = ctl->value[O_WORKSPACE];

    result = json_pack("{s:s, s:I, s:s}", "workspace", workspace,
                       "generation", (json_int_t) generation, "was", was);

    if (result == NULL) {
        output_say("an unexpected answer to a script");
        return RC_FAILED;
    }

    if (strcmp(was, "malformed") == 0) {
        output_say("warning: the generation of %s was no plain integer, so "
                   "that nothing of it was cached; it starts anew", workspace);
    }

    rc = master_wait(m, result);

    if (ctl->json) {
        output_json(result);

    } else {
        printf("%s: purged, generation %lld\n", workspace, generation);
        json_decref(result);
    }

    return rc;
}


rc_t
cache_purge_handler(const ctl_t *ctl)
{
    rc_t         rc;
    char        *name;
    master_t     m;
    redisReply  *reply;

    if (!master_open(&m, &ctl->keys, ctl->timeout)) {
        return RC_FAILED;
    }

    name = text_format("%sgen:{%s}", ctl->prefix, ctl->value[O_WORKSPACE]);

    reply = master_script_pair(&m.conn, cache_script_purge, name, NULL);
    rc = reply ? cache_purge_done(ctl, &m, reply) : conn_report(&m.conn);

    freeReplyObject(reply);
    free(name);
    conn_close(&m.conn);

    return rc;
}
