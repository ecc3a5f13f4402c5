
/*
 * Owns the coalescing of requests that want the same thing: who leads, who
 * waits, and who is told when.
 *
 * In a worker the waiters stand in a queue of the flight and are woken by its
 * end.  Between workers there is an entry in the zone that names the leader's
 * process; a worker whose requests wait for another's leader looks at it every
 * 10 ms.  An entry whose process has died, or that is past its deadline, is
 * nobody's.  The entry also remembers what became of the last attempt.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_waiters.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_flight.h"


#define NGX_CONVOTIC_FLIGHT_POLL      10        /* ms */

/* how long a thing that is not shared is remembered as such */
#define NGX_CONVOTIC_FLIGHT_PASSING   1000      /* ms */

/* what another node does is not tried within this time */
#define NGX_CONVOTIC_FLIGHT_ELSE      300       /* ms */

/* until then other workers have heard of an error, and do not try as well */
#define NGX_CONVOTIC_FLIGHT_HEARD     30        /* ms */

/* one of those that have waited in vain goes on in this time */
#define NGX_CONVOTIC_FLIGHT_TRICKLE   1000      /* ms */

/* from one attempt to the next after a failure: 1, 2, 4, 8, 10, 10 ... s */
#define NGX_CONVOTIC_FLIGHT_RETRY     1000      /* ms */
#define NGX_CONVOTIC_FLIGHT_RETRY_MAX 10000     /* ms */


/* of the zone's table; times are ngx_current_msec, 0 is never */

typedef struct {
    uint64_t                  owner;     /* pid and number; 0: nobody */
    uint64_t                  token;     /* of the owner's attempt */
    ngx_msec_t                deadline;
    ngx_msec_t                pass;      /* until then it is not shared */
    ngx_msec_t                retry;     /* not before, if one need not */
    ngx_msec_t                trickle;
    uint32_t                  failures;  /* in a row */
    uint32_t                  refused;   /* the last answer was an error */
} ngx_convotic_flight_entry_t;


struct ngx_convotic_flight_s {
    ngx_str_node_t            node;      /* by the name */
    ngx_rbtree_t             *tree;      /* of its kind */
    ngx_queue_t               remote;    /* of those that another worker has */
    ngx_queue_t               waiters;
    ngx_convotic_table_t     *table;     /* of its kind */
    uint64_t                  owner;     /* 0: another worker's */
    uint64_t                  token;
    uint64_t                  abandoned; /* token of an owner who died */
    ngx_msec_t                lifetime;
    u_char                    name[NGX_CONVOTIC_TABLE_NAME];
};


struct ngx_convotic_flights_s {
    ngx_convotic_zone_t      *zone;
    ngx_convotic_waiters_t   *waiters;
    ngx_rbtree_t              trees[NGX_CONVOTIC_FLIGHT_KINDS];
    ngx_rbtree_node_t         sentinels[NGX_CONVOTIC_FLIGHT_KINDS];
    ngx_queue_t               remote;
    ngx_event_t               poll;
    ngx_log_t                *log;
    ngx_uint_t                waiting;
    ngx_uint_t                waiting_max;
    uint32_t                  number;
};


static void ngx_convotic_flight_promote(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight);
static ngx_convotic_flight_t *ngx_convotic_flight_find(
    ngx_convotic_flights_t *flights, ngx_convotic_flight_kind_e kind,
    const u_char *name);
static ngx_convotic_flight_t *ngx_convotic_flight_insert(
    ngx_convotic_flights_t *flights, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t lifetime);
static void ngx_convotic_flight_remove(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight);
static ngx_int_t ngx_convotic_flight_take(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_uint_t needed);
static void ngx_convotic_flight_give_up(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_convotic_flight_end_e end);
static ngx_uint_t ngx_convotic_flight_owned(
    ngx_convotic_flight_entry_t *entry);
static ngx_msec_t ngx_convotic_flight_pause(ngx_uint_t failures);
static ngx_int_t ngx_convotic_flight_late(ngx_convotic_flights_t *flights,
    ngx_convotic_table_t *table, const u_char *name);
static ngx_int_t ngx_convotic_flight_wait(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_convotic_ctx_t *ctx,
    ngx_msec_t timeout);
static void ngx_convotic_flight_unlink(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_flight_ready(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_woken_e woken);
static void ngx_convotic_flight_waited(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx);
static void ngx_convotic_flight_share(ngx_convotic_ctx_t *ctx,
    ngx_convotic_answer_t *answer);
static ngx_array_t *ngx_convotic_flight_headers(ngx_pool_t *pool,
    ngx_array_t *headers);
static void ngx_convotic_flight_poll_handler(ngx_event_t *ev);
static ngx_uint_t ngx_convotic_flight_has_failed(
    ngx_convotic_flights_t *flights, ngx_convotic_flight_t *flight);
static void ngx_convotic_flight_timer_handler(ngx_event_t *ev);
static ngx_convotic_table_t *ngx_convotic_flight_table(
    ngx_convotic_flights_t *flights, ngx_convotic_flight_kind_e kind);
static ngx_uint_t ngx_convotic_flight_future(ngx_msec_t time);
static ngx_convotic_flights_t *ngx_convotic_flight_flights(
    ngx_convotic_ctx_t *ctx);


size_t
ngx_convotic_flight_value(void)
{
    return sizeof(ngx_convotic_flight_entry_t);
}


ngx_convotic_flights_t *
ngx_convotic_flight_create(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    ngx_uint_t               i;
    ngx_convotic_flights_t  *flights;

    flights = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_flights_t));
    if (flights == NULL) {
        return NULL;
    }

    flights->zone = mcf->zone;
    flights->waiters = mcf->waiters;

    for (i = 0; i < NGX_CONVOTIC_FLIGHT_KINDS; i++) {
        ngx_rbtree_init(&flights->trees[i], &flights->sentinels[i],
                        ngx_str_rbtree_insert_value);
    }

    ngx_queue_init(&flights->remote);

    return flights;
}


void
ngx_convotic_flight_start(ngx_convotic_flights_t *flights, ngx_cycle_t *cycle)
{
    flights->log = cycle->log;

    /* who waits has a connection; others need some as well */

    flights->waiting_max = cycle->connection_n / 2;

    flights->poll.handler = ngx_convotic_flight_poll_handler;
    flights->poll.data = flights;
    flights->poll.log = cycle->log;
}


ngx_int_t
ngx_convotic_flight_join(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t lifetime, ngx_msec_t timeout)
{
    ngx_int_t               rc;
    ngx_convotic_table_t   *table;
    ngx_convotic_flight_t  *flight;

    table = ngx_convotic_flight_table(flights, kind);

    if (ctx->waiter.late) {
        return ngx_convotic_flight_late(flights, table, name);
    }

    flight = ngx_convotic_flight_find(flights, kind, name);

    if (flight) {
        return ngx_convotic_flight_wait(flights, flight, ctx, timeout);
    }

    flight = ngx_convotic_flight_insert(flights, kind, name, lifetime);
    if (flight == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_convotic_flight_take(flights, flight, 1);

    if (rc == NGX_DECLINED) {
        ngx_convotic_flight_remove(flights, flight);
        return NGX_DECLINED;
    }

    if (rc == NGX_OK) {
        ctx->flight = flight;
        return NGX_OK;
    }

    ngx_queue_insert_tail(&flights->remote, &flight->remote);

    if (!flights->poll.timer_set) {
        ngx_add_timer(&flights->poll, NGX_CONVOTIC_FLIGHT_POLL);
    }

    rc = ngx_convotic_flight_wait(flights, flight, ctx, timeout);

    if (rc != NGX_AGAIN) {
        ngx_convotic_flight_remove(flights, flight);
    }

    return rc;
}


ngx_int_t
ngx_convotic_flight_try(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t lifetime)
{
    ngx_int_t                     rc;
    ngx_convotic_table_t         *table;
    ngx_convotic_flight_t        *flight;
    ngx_convotic_flight_entry_t   entry;

    table = ngx_convotic_flight_table(flights, kind);

    if (ngx_convotic_flight_find(flights, kind, name)) {
        return NGX_BUSY;
    }

    if (ngx_convotic_table_read(table, flights->zone->scope, name, &entry)
        == NGX_OK
        && ngx_convotic_flight_future(entry.retry))
    {
        return NGX_BUSY;
    }

    flight = ngx_convotic_flight_insert(flights, kind, name, lifetime);
    if (flight == NULL) {
        return NGX_DECLINED;
    }

    rc = ngx_convotic_flight_take(flights, flight, 0);

    if (rc != NGX_OK) {
        ngx_convotic_flight_remove(flights, flight);
        return rc;
    }

    ctx->flight = flight;

    return NGX_OK;
}


ngx_uint_t
ngx_convotic_flight_is(ngx_convotic_flight_t *flight, const u_char *name)
{
    return ngx_memcmp(flight->name, name, NGX_CONVOTIC_TABLE_NAME) == 0;
}


uint64_t
ngx_convotic_flight_token(ngx_convotic_flight_t *flight)
{
    return flight->token;
}


uint64_t
ngx_convotic_flight_abandoned(ngx_convotic_flight_t *flight)
{
    uint64_t  token;

    token = flight->abandoned;
    flight->abandoned = 0;

    return token;
}


ngx_convotic_flight_end_e
ngx_convotic_flight_last(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_kind_e kind, const u_char *name)
{
    ngx_convotic_flight_entry_t  entry;

    if (ngx_convotic_table_read(ngx_convotic_flight_table(flights, kind),
                                flights->zone->scope, name, &entry)
        != NGX_OK)
    {
        return NGX_CONVOTIC_FLIGHT_ENDED;
    }

    if (entry.failures) {
        return NGX_CONVOTIC_FLIGHT_FAILED;
    }

    return entry.refused ? NGX_CONVOTIC_FLIGHT_ERROR
                         : NGX_CONVOTIC_FLIGHT_ENDED;
}


void
ngx_convotic_flight_end(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_end_e end,
    ngx_convotic_body_t *copy, ngx_convotic_answer_t *answer)
{
    ngx_uint_t              failed;
    ngx_convotic_ctx_t     *other;
    ngx_convotic_flight_t  *flight;

    flight = ctx->flight;
    ctx->flight = NULL;

    ngx_convotic_flight_give_up(flights, flight, end);

    failed = (end == NGX_CONVOTIC_FLIGHT_ERROR
              || end == NGX_CONVOTIC_FLIGHT_FAILED);

    while (!ngx_queue_empty(&flight->waiters)) {

        other = ngx_convotic_waiters_first(&flight->waiters);

        /* it may have waited before, for a generation that is no more */

        if (other->waiter.copy) {
            ngx_convotic_body_release(other->waiter.copy);
            other->waiter.copy = NULL;
        }

        if (copy) {
            ngx_convotic_body_hold(copy);
            other->waiter.copy = copy;
        }

        if (failed && answer) {
            ngx_convotic_flight_share(other, answer);
        }

        ngx_convotic_flight_ready(flights, other,
                                  failed ? NGX_CONVOTIC_WOKEN_FAILED
                                         : NGX_CONVOTIC_WOKEN_ENDED);
    }

    ngx_convotic_flight_remove(flights, flight);
}


/* the entry is nobody's again, and remembers how it ended */

static void
ngx_convotic_flight_give_up(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_convotic_flight_end_e end)
{
    ngx_convotic_flight_entry_t  entry;

    ngx_convotic_zone_lock(flights->zone);

    if (ngx_convotic_table_read(flight->table, flights->zone->scope,
                                flight->name, &entry)
        == NGX_OK
        && entry.owner == flight->owner)
    {
        entry.owner = 0;
        entry.pass = 0;
        entry.retry = 0;

        if (end == NGX_CONVOTIC_FLIGHT_FAILED) {
            entry.failures++;

        } else if (end != NGX_CONVOTIC_FLIGHT_ELSEWHERE) {
            entry.failures = 0;
        }

        entry.refused = (end == NGX_CONVOTIC_FLIGHT_ERROR);

        switch (end) {

        case NGX_CONVOTIC_FLIGHT_PASS:
            entry.pass = ngx_current_msec + NGX_CONVOTIC_FLIGHT_PASSING;
            break;

        case NGX_CONVOTIC_FLIGHT_ELSEWHERE:
        case NGX_CONVOTIC_FLIGHT_FAILED:
            entry.retry = ngx_current_msec
                          + ngx_convotic_flight_pause(entry.failures);
            break;

        case NGX_CONVOTIC_FLIGHT_ERROR:
            entry.retry = ngx_current_msec + NGX_CONVOTIC_FLIGHT_HEARD;
            break;

        default:
            break;
        }

        /* most often there is nothing to be remembered */

        if (end == NGX_CONVOTIC_FLIGHT_ENDED) {
            ngx_convotic_table_remove_locked(flight->table,
                                             flights->zone->scope,
                                             flight->name);
        } else {
            ngx_convotic_table_write_locked(flight->table,
                                            flights->zone->scope,
                                            flight->name, &entry);
        }
    }

    ngx_convotic_zone_unlock(flights->zone);
}


void
ngx_convotic_flight_leave(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_flight_t  *flight;

    flight = ctx->waiter.flight;

    if (flight) {
        ngx_convotic_flight_unlink(flights, ctx);

        if (flight->owner == 0 && ngx_queue_empty(&flight->waiters)) {
            ngx_convotic_flight_remove(flights, flight);
        }
    }

    if (ctx->waiter.copy) {
        ngx_convotic_body_release(ctx->waiter.copy);
        ctx->waiter.copy = NULL;
    }

    /* nothing is known of how it would have ended: another one leads */

    flight = ctx->flight;

    if (flight == NULL) {
        return;
    }

    if (ngx_queue_empty(&flight->waiters)) {
        ngx_convotic_flight_end(flights, ctx, NGX_CONVOTIC_FLIGHT_ENDED,
                                NULL, NULL);
        return;
    }

    ctx->flight = NULL;
    ngx_convotic_flight_promote(flights, flight);
}


/* of those who wait, the first */

static void
ngx_convotic_flight_promote(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight)
{
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_waiters_first(&flight->waiters);

    ctx->flight = flight;

    ngx_convotic_flight_ready(flights, ctx, NGX_CONVOTIC_WOKEN_ENDED);
}


static ngx_convotic_flight_t *
ngx_convotic_flight_find(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_kind_e kind, const u_char *name)
{
    ngx_str_t  str;

    str.len = NGX_CONVOTIC_TABLE_NAME;
    str.data = (u_char *) name;

    return (ngx_convotic_flight_t *)
               ngx_str_rbtree_lookup(&flights->trees[kind], &str,
                                     ngx_convotic_digest_hash(name));
}


static ngx_convotic_flight_t *
ngx_convotic_flight_insert(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_kind_e kind, const u_char *name, ngx_msec_t lifetime)
{
    ngx_convotic_flight_t  *flight;

    flight = ngx_alloc(sizeof(ngx_convotic_flight_t), flights->log);
    if (flight == NULL) {
        return NULL;
    }

    flight->table = ngx_convotic_flight_table(flights, kind);
    flight->owner = 0;
    flight->abandoned = 0;
    flight->lifetime = lifetime;
    flight->remote.next = NULL;

    ngx_memcpy(flight->name, name, NGX_CONVOTIC_TABLE_NAME);

    flight->node.str.len = NGX_CONVOTIC_TABLE_NAME;
    flight->node.str.data = flight->name;
    flight->node.node.key = ngx_convotic_digest_hash(name);

    ngx_queue_init(&flight->waiters);

    flight->tree = &flights->trees[kind];
    ngx_rbtree_insert(flight->tree, &flight->node.node);

    return flight;
}


static void
ngx_convotic_flight_remove(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight)
{
    if (flight->remote.next) {
        ngx_queue_remove(&flight->remote);
    }

    ngx_rbtree_delete(flight->tree, &flight->node.node);
    ngx_free(flight);

    if (ngx_queue_empty(&flights->remote) && flights->poll.timer_set) {
        ngx_del_timer(&flights->poll);
    }
}


/*
 * NGX_OK: the flight is this worker's; NGX_BUSY: another's, or not needed so
 * soon; NGX_DECLINED: what would come is not shared.
 */

static ngx_int_t
ngx_convotic_flight_take(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_uint_t needed)
{
    ngx_int_t                    rc;
    ngx_convotic_flight_entry_t  entry;

    ngx_convotic_zone_lock(flights->zone);

    if (ngx_convotic_table_read(flight->table, flights->zone->scope,
                                flight->name, &entry)
        != NGX_OK)
    {
        ngx_memzero(&entry, sizeof(ngx_convotic_flight_entry_t));
    }

    if (ngx_convotic_flight_future(entry.pass)) {
        rc = NGX_DECLINED;

    } else if (ngx_convotic_flight_owned(&entry)
               || (!needed && ngx_convotic_flight_future(entry.retry)))
    {
        rc = NGX_BUSY;

    } else {
        rc = NGX_OK;

        flight->owner = ((uint64_t) ngx_pid << 32) | ++flights->number;
        flight->token = ((uint64_t) ngx_random() << 32)
                        ^ (uint64_t) ngx_random();
        flight->abandoned = entry.owner ? entry.token : 0;

        entry.owner = flight->owner;
        entry.token = flight->token;
        entry.deadline = ngx_current_msec + flight->lifetime;

        ngx_convotic_table_write_locked(flight->table, flights->zone->scope,
                                        flight->name, &entry);
    }

    ngx_convotic_zone_unlock(flights->zone);

    return rc;
}


/*
 * A process that is gone owns nothing; nor does this one, for what it leads
 * is in its tree.
 */

static ngx_uint_t
ngx_convotic_flight_owned(ngx_convotic_flight_entry_t *entry)
{
    ngx_pid_t  pid;

    if (entry->owner == 0 || !ngx_convotic_flight_future(entry->deadline)) {
        return 0;
    }

    pid = (ngx_pid_t) (entry->owner >> 32);

    return pid != ngx_pid && (kill(pid, 0) == 0 || ngx_errno != NGX_ESRCH);
}


static ngx_int_t
ngx_convotic_flight_late(ngx_convotic_flights_t *flights,
    ngx_convotic_table_t *table, const u_char *name)
{
    ngx_uint_t                    full;
    ngx_convotic_flight_entry_t   entry;

    ngx_convotic_zone_lock(flights->zone);

    if (ngx_convotic_table_read(table, flights->zone->scope, name, &entry)
        != NGX_OK)
    {
        ngx_memzero(&entry, sizeof(ngx_convotic_flight_entry_t));
    }

    full = ngx_convotic_flight_future(entry.trickle);

    if (!full) {
        entry.trickle = ngx_current_msec + NGX_CONVOTIC_FLIGHT_TRICKLE;
        ngx_convotic_table_write_locked(table, flights->zone->scope, name,
                                        &entry);
    }

    ngx_convotic_zone_unlock(flights->zone);

    ngx_convotic_zone_count(flights->zone,
                            full ? NGX_CONVOTIC_COUNT_WAITED_REFUSED
                                 : NGX_CONVOTIC_COUNT_WAITED_LATE);

    return full ? NGX_BUSY : NGX_DECLINED;
}


static ngx_int_t
ngx_convotic_flight_wait(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight, ngx_convotic_ctx_t *ctx,
    ngx_msec_t timeout)
{
    ngx_msec_int_t          left;
    ngx_convotic_waiter_t  *waiter;

    waiter = &ctx->waiter;

    if (timeout == 0) {
        return NGX_DECLINED;
    }

    /* the time is for all turns together */

    if (waiter->until == 0) {
        waiter->until = ngx_current_msec + timeout;
    }

    left = (ngx_msec_int_t) (waiter->until - ngx_current_msec);

    if (flights->waiting >= flights->waiting_max) {
        ngx_convotic_zone_count(flights->zone,
                                NGX_CONVOTIC_COUNT_WAITED_REFUSED);
        return NGX_BUSY;
    }

    waiter->flight = flight;
    waiter->woken = NGX_CONVOTIC_WOKEN_NOT;

    waiter->timer.handler = ngx_convotic_flight_timer_handler;
    waiter->timer.data = ctx;
    waiter->timer.log = ctx->request->connection->log;

    ngx_add_timer(&waiter->timer, left > 0 ? (ngx_msec_t) left : 1);

    ngx_convotic_waiters_add(&flight->waiters, ctx);

    flights->waiting++;

    ngx_convotic_zone_gauge(flights->zone, NGX_CONVOTIC_GAUGE_WAITING,
                            flights->waiting);
    return NGX_AGAIN;
}


/* after so many failures; none: another node may succeed */

static ngx_msec_t
ngx_convotic_flight_pause(ngx_uint_t failures)
{
    ngx_uint_t  n;

    if (failures == 0) {
        return NGX_CONVOTIC_FLIGHT_ELSE;
    }

    n = ngx_min(failures - 1, 8);

    return ngx_min(NGX_CONVOTIC_FLIGHT_RETRY << n,
                   NGX_CONVOTIC_FLIGHT_RETRY_MAX);
}


static void
ngx_convotic_flight_unlink(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_waiters_leave(ctx);
    ngx_convotic_flight_waited(flights, ctx);
}


static void
ngx_convotic_flight_ready(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_woken_e woken)
{
    ctx->waiter.woken = woken;

    ngx_convotic_waiters_wake(flights->waiters, ctx);
    ngx_convotic_flight_waited(flights, ctx);
}


static void
ngx_convotic_flight_waited(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx)
{
    ctx->waiter.flight = NULL;

    if (ctx->waiter.timer.timer_set) {
        ngx_del_timer(&ctx->waiter.timer);
    }

    flights->waiting--;

    ngx_convotic_zone_gauge(flights->zone, NGX_CONVOTIC_GAUGE_WAITING,
                            flights->waiting);
}


/* an error of the leader's; its texts live no longer than that request */

static void
ngx_convotic_flight_share(ngx_convotic_ctx_t *ctx,
    ngx_convotic_answer_t *answer)
{
    ngx_convotic_answer_t  *own;

    own = &ctx->answer;

    own->status = answer->status;
    own->code = answer->code;
    own->retry_after = answer->retry_after;

    own->message.len = answer->message.len;
    own->message.data = ngx_pstrdup(ctx->request->pool, &answer->message);

    if (own->message.data == NULL) {
        ngx_str_set(&own->message, "The request could not be processed");
    }

    own->headers = answer->headers
                   ? ngx_convotic_flight_headers(ctx->request->pool,
                                                 answer->headers)
                   : NULL;
}


/* their names are constants; NULL: no memory, and an error without them */

static ngx_array_t *
ngx_convotic_flight_headers(ngx_pool_t *pool, ngx_array_t *headers)
{
    ngx_uint_t              i;
    ngx_array_t            *copy;
    ngx_convotic_header_t  *from, *to;

    copy = ngx_array_create(pool, ngx_max(headers->nelts, 1),
                            sizeof(ngx_convotic_header_t));
    if (copy == NULL) {
        return NULL;
    }

    from = headers->elts;

    for (i = 0; i < headers->nelts; i++) {

        to = ngx_array_push(copy);
        if (to == NULL) {
            return NULL;
        }

        to->name = from[i].name;
        to->value.len = from[i].value.len;
        to->value.data = ngx_pstrdup(pool, &from[i].value);

        if (to->value.data == NULL) {
            return NULL;
        }
    }

    return copy;
}


static void
ngx_convotic_flight_poll_handler(ngx_event_t *ev)
{
    ngx_int_t                rc;
    ngx_uint_t               failed;
    ngx_queue_t             *q, *next;
    ngx_convotic_flight_t   *flight;
    ngx_convotic_flights_t  *flights;

    flights = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic flight poll handler");

    for (q = ngx_queue_head(&flights->remote);
         q != ngx_queue_sentinel(&flights->remote);
         q = next)
    {
        next = ngx_queue_next(q);
        flight = ngx_queue_data(q, ngx_convotic_flight_t, remote);

        failed = ngx_convotic_flight_has_failed(flights, flight);

        rc = failed ? NGX_DECLINED
                    : ngx_convotic_flight_take(flights, flight, 1);

        if (rc == NGX_BUSY) {
            continue;
        }

        ngx_queue_remove(&flight->remote);
        flight->remote.next = NULL;

        if (rc == NGX_OK) {

            /* one looks at what has come, and the others wait for that one */

            ngx_convotic_flight_promote(flights, flight);
            continue;
        }

        while (!ngx_queue_empty(&flight->waiters)) {
            ngx_convotic_flight_ready(flights,
                 ngx_convotic_waiters_first(&flight->waiters),
                 failed ? NGX_CONVOTIC_WOKEN_FAILED
                        : NGX_CONVOTIC_WOKEN_ENDED);
        }

        ngx_convotic_flight_remove(flights, flight);
    }

    if (!ngx_queue_empty(&flights->remote)) {
        ngx_add_timer(ev, NGX_CONVOTIC_FLIGHT_POLL);
    }
}


/*
 * Of a look-up: who has waited for it as long as it took does not wait for
 * the same server once more.
 */

static ngx_uint_t
ngx_convotic_flight_has_failed(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_t *flight)
{
    ngx_convotic_flight_entry_t  entry;

    return flight->table == &flights->zone->tables->lookups
           && ngx_convotic_table_read(flight->table, flights->zone->scope,
                                      flight->name, &entry)
              == NGX_OK
           && entry.owner == 0
           && entry.refused
           && ngx_convotic_flight_future(entry.retry);
}


static void
ngx_convotic_flight_timer_handler(ngx_event_t *ev)
{
    ngx_convotic_ctx_t      *ctx;
    ngx_convotic_flight_t   *flight;
    ngx_convotic_flights_t  *flights;

    ctx = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic flight timer handler");

    flights = ngx_convotic_flight_flights(ctx);
    flight = ctx->waiter.flight;

    ngx_convotic_flight_unlink(flights, ctx);

    if (flight->owner == 0 && ngx_queue_empty(&flight->waiters)) {
        ngx_convotic_flight_remove(flights, flight);
    }

    ctx->waiter.woken = NGX_CONVOTIC_WOKEN_LATE;
    ctx->waiter.late = 1;

    ctx->resume(ctx);
}


static ngx_convotic_table_t *
ngx_convotic_flight_table(ngx_convotic_flights_t *flights,
    ngx_convotic_flight_kind_e kind)
{
    return (kind == NGX_CONVOTIC_FLIGHT_KEY) ? &flights->zone->tables->lookups
                                             : &flights->zone->tables->fetches;
}


static ngx_uint_t
ngx_convotic_flight_future(ngx_msec_t time)
{
    return time && (ngx_msec_int_t) (time - ngx_current_msec) > 0;
}


static ngx_convotic_flights_t *
ngx_convotic_flight_flights(ngx_convotic_ctx_t *ctx)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(ctx->request, ngx_convotic_module);

    return mcf->flights;
}
