
/*
 * Owns the checks of tracking, by which gateways learn what has changed: may
 * this user have it, and does every node with a gateway have it now.  Neither
 * changes anything, and neither can fail: without tracking, a gateway works,
 * and asks more often.  Called by doctor.c, for the key server.
 */


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor_tracking.h"
#include "mem.h"
#include "text.h"


/* of a gateway's connections: "ngx_convotic-<pid>", perhaps "-tracking" */
#define DOCTOR_TRACKING_NAME    "ngx_convotic-"
#define DOCTOR_TRACKING_SUFFIX  "-tracking"

#define DOCTOR_TRACKING_DIGITS  "0123456789"


/* a node, by the address that its gateway's connections come from */

typedef struct {
    char  *host;
    bool   tracked;
} doctor_node_t;


typedef struct {
    doctor_node_t  *elts;
    size_t          nelts;
    size_t          nalloc;
} doctor_nodes_t;


/*
 * What the gateway sends, on a connection of its own, whose end is the end of
 * the tracking too.
 */

static bool
doctor_tracking_handshake(conn_t *c, const char *prefix)
{
    bool         ok;
    char         id[24], *key, *gen;
    long long    n;
    const char  *ask[3] = { "CLIENT", "ID", NULL };
    const char  *track[11] = { "CLIENT", "TRACKING", "ON", "REDIRECT", id,
                               "BCAST", "PREFIX", NULL, "PREFIX", NULL, NULL };
    const char  *subscribe[3] = { "SUBSCRIBE", "__redis__:invalidate", NULL };
    const char  *ping[2] = { "PING", NULL };

    if (!conn_integer(c, ask, &n)) {
        return false;
    }

    snprintf(id, sizeof(id), "%lld", n);

    key = text_format("%skey:", prefix);
    gen = text_format("%sgen:", prefix);
    track[7] = key;
    track[9] = gen;

    /* who has subscribed gets an array for a PING */

    ok = conn_do(c, REDIS_REPLY_STATUS, track)
         && conn_do(c, REDIS_REPLY_ARRAY, subscribe)
         && conn_do(c, REDIS_REPLY_ARRAY, ping);

    free(key);
    free(gen);

    return ok;
}


void
doctor_tracking(side_t *side)
{
    conn_t  c;

    if (conn_open(&c, side->conn.server, side->ctl->timeout)
        && doctor_tracking_handshake(&c, side->ctl->prefix))
    {
        side_say(side, SIDE_OK, "tracking", "CLIENT TRACKING and its channel "
                 "__redis__:invalidate work");

    } else {
        side_say(side, SIDE_WARN, "tracking", "no invalidations, so what a "
                 "gateway knows lives one second: %s; +client|id "
                 "+client|tracking +subscribe and &__redis__:invalidate are "
                 "needed", c.error);
    }

    conn_close(&c);
}


/* the value of a field in a line of CLIENT LIST, of *len bytes, or NULL */

static const char *
doctor_tracking_field(const char *line, size_t size, const char *field,
    size_t *len)
{
    size_t       n;
    const char  *p, *last;

    n = strlen(field);
    last = line + size;

    for (p = line; p < last; p += strcspn(p, " \n") + 1) {

        if ((size_t) (last - p) > n && strncmp(p, field, n) == 0) {
            p += n;
            *len = strcspn(p, " \n");
            return p;
        }
    }

    return NULL;
}


static doctor_node_t *
doctor_tracking_node(doctor_nodes_t *nodes, const char *host, size_t len)
{
    size_t          i;
    doctor_node_t  *node;

    for (i = 0; i < nodes->nelts; i++) {
        node = &nodes->elts[i];

        if (strlen(node->host) == len && memcmp(node->host, host, len) == 0) {
            return node;
        }
    }

    nodes->elts = mem_grow(nodes->elts, nodes->nelts, &nodes->nalloc,
                           sizeof(doctor_node_t));

    node = &nodes->elts[nodes->nelts++];
    memset(node, 0, sizeof(doctor_node_t));
    node->host = mem_copy(host, len);

    return node;
}


static void
doctor_tracking_line(doctor_nodes_t *nodes, const char *line, size_t size)
{
    bool            tracker;
    size_t          n, len;
    const char     *name, *addr;
    doctor_node_t  *node;

    n = sizeof(DOCTOR_TRACKING_NAME) - 1;
    name = doctor_tracking_field(line, size, "name=", &len);

    if (name == NULL || len <= n || strncmp(name, DOCTOR_TRACKING_NAME, n) != 0)
    {
        return;
    }

    n += strspn(name + n, DOCTOR_TRACKING_DIGITS);
    name += n;
    len -= n;

    tracker = (len == sizeof(DOCTOR_TRACKING_SUFFIX) - 1
               && strncmp(name, DOCTOR_TRACKING_SUFFIX, len) == 0);

    if (len && !tracker) {
        return;
    }

    addr = doctor_tracking_field(line, size, "addr=", &n);

    if (addr == NULL) {
        return;
    }

    /* without the port */

    while (n > 0 && addr[n - 1] != ':') {
        n--;
    }

    node = doctor_tracking_node(nodes, addr, n ? n - 1 : 0);

    if (tracker) {
        node->tracked = true;
    }
}


static void
doctor_tracking_report(side_t *side, const doctor_nodes_t *nodes)
{
    char                 *host;
    size_t                i, idle;
    const doctor_node_t  *node, *first;

    idle = 0;
    first = NULL;

    for (i = 0; i < nodes->nelts; i++) {
        node = &nodes->elts[i];

        if (!node->tracked) {
            idle++;
            first = first ? first : node;
        }
    }

    if (idle) {
        host = text_escape(first->host, strlen(first->host));
        side_say(side, SIDE_WARN, "gateways", "%zu of %zu addresses with a "
                 "gateway have no tracking, so what is known there lives one "
                 "second: see the error log of %s", idle, nodes->nelts, host);
        free(host);

    } else {
        side_say(side, SIDE_OK, "gateways", "addresses with a gateway: %zu, "
                 "each with tracking", nodes->nelts);
    }
}


void
doctor_tracking_gateways(side_t *side)
{
    size_t           len;
    redisReply      *reply;
    const char      *p, *last;
    const char      *argv[3] = { "CLIENT", "LIST", NULL };
    doctor_nodes_t   nodes;

    /* the gateway's own user need not see other clients */

    reply = conn_ask(&side->conn, REDIS_REPLY_STRING, argv);
    if (reply == NULL) {
        return;
    }

    memset(&nodes, 0, sizeof(doctor_nodes_t));

    last = reply->str + reply->len;

    for (p = reply->str; p < last; p += len + 1) {
        len = strcspn(p, "\n");
        doctor_tracking_line(&nodes, p, len);
    }

    if (nodes.nelts) {
        doctor_tracking_report(side, &nodes);
    }

    freeReplyObject(reply);

    while (nodes.nelts) {
        free(nodes.elts[--nodes.nelts].host);
    }

    free(nodes.elts);
}
