
/*
 * Owns the tracking of changes: one worker of a node, the holder, has a
 * connection to the server of keys that redirects the invalidations of all
 * keys and generations to itself.  It passes them on to the zone, and stamps
 * the zone with the time until which nothing has been missed, which is when
 * the last PING was sent that has been answered.
 *
 * Who holds is written in the zone.  A holder that has died or stands still
 * is succeeded by another worker; one that exits waits until another's
 * connection is confirmed, and then asks its own once more, so that at each
 * moment one of the two was listening.  In every other case the epoch of all
 * entries ends with the connection.
 *
 * What goes over this connection is never a request's.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_records.h"
#include "ngx_convotic_leases.h"
#include "ngx_convotic_tracking.h"


#define NGX_CONVOTIC_TRACKING_TICK       100    /* ms */

/* of PINGs; a stamp is to be much younger than it may be */
#define NGX_CONVOTIC_TRACKING_PING       200    /* ms */

/* a holder that was not seen alive for so long is succeeded */
#define NGX_CONVOTIC_TRACKING_CLAIM      1000   /* ms */

/* a worker that looked in the zone within this time can succeed */
#define NGX_CONVOTIC_TRACKING_CANDIDATE  300    /* ms */

/* how long an exiting holder waits for its successor's connection */
#define NGX_CONVOTIC_TRACKING_LEAVING    1500   /* ms */

/* a handshake that takes longer, and two servers for longer, begin anew */
#define NGX_CONVOTIC_TRACKING_STUCK      5000   /* ms */
#define NGX_CONVOTIC_TRACKING_APART      2000   /* ms */

/* a server that refused is asked again after this */
#define NGX_CONVOTIC_TRACKING_REFUSED    30000  /* ms */

/* a wrong name is told of again after this */
#define NGX_CONVOTIC_TRACKING_WARN       60     /* s */

#define NGX_CONVOTIC_TRACKING_CHANNEL    "__redis__:invalidate"


typedef enum {
    NGX_CONVOTIC_TRACKING_IDLE = 0,
    NGX_CONVOTIC_TRACKING_BEGINNING,     /* connecting, or being confirmed */
    NGX_CONVOTIC_TRACKING_CONFIRMED
} ngx_convotic_tracking_state_e;


struct ngx_convotic_tracking_s {
    ngx_convotic_redis_t           *redis;
    ngx_convotic_redis_t           *data;        /* the commands' connection */
    ngx_convotic_zone_t            *zone;
    ngx_convotic_digest_t          *digest;
    ngx_str_t                       prefix;
    ngx_str_t                       keys;        /* with "key:" behind it */
    ngx_str_t                       generations;

    /* a worker's */

    ngx_convotic_tracking_state_e   state;
    ngx_atomic_uint_t               id;          /* {pid, nonce} */
    ngx_event_t                     tick;
    ngx_event_t                     leave;
    ngx_msec_t                      asked;       /* the PING under way */
    ngx_msec_t                      pinged;      /* the last one */
    ngx_msec_t                      refused;     /* 0: not */
    ngx_msec_t                      left;        /* when it began to leave */
    time_t                          warned;
    ngx_msec_t                      began;       /* the handshake; 0: not */
    ngx_msec_t                      apart;       /* from the keys' server */
    ngx_atomic_uint_t               handing;     /* number of the successor's
                                                    connection; 0: none */
    unsigned                        asking:1;
    unsigned                        leaving:1;
};


static void ngx_convotic_tracking_tick_handler(ngx_event_t *ev);
static ngx_uint_t ngx_convotic_tracking_is_stuck(
    ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_claim(ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_epoch_locked(
    ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_successor_locked(
    ngx_convotic_tracking_t *tracking);
static ngx_uint_t ngx_convotic_tracking_is_gone(ngx_atomic_uint_t id);
static void ngx_convotic_tracking_begin(ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_end(ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_ping(ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_pong_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_tracking_ready(void *data);
static void ngx_convotic_tracking_id_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_tracking_on_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_tracking_subscribe_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_tracking_confirmed(
    ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_refuse(ngx_convotic_tracking_t *tracking,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_tracking_lost(void *data);
static void ngx_convotic_tracking_exiting(void *data);
static void ngx_convotic_tracking_leave_handler(ngx_event_t *ev);
static void ngx_convotic_tracking_message(void *data,
    ngx_convotic_resp_t *message);
static void ngx_convotic_tracking_changed(ngx_convotic_tracking_t *tracking,
    ngx_str_t *name);
static void ngx_convotic_tracking_flush(ngx_convotic_tracking_t *tracking);
static void ngx_convotic_tracking_foreign(ngx_convotic_tracking_t *tracking);
static ngx_int_t ngx_convotic_tracking_unhex(ngx_str_t *hex, u_char *value);
static ngx_uint_t ngx_convotic_tracking_older(ngx_msec_t since,
    ngx_msec_t age);


static const ngx_convotic_redis_events_t  ngx_convotic_tracking_events = {
    ngx_convotic_tracking_ready,
    ngx_convotic_tracking_message,
    ngx_convotic_tracking_lost,
    ngx_convotic_tracking_exiting
};


ngx_convotic_tracking_t *
ngx_convotic_tracking_create(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    u_char                   *p;
    ngx_convotic_tracking_t  *tracking;

    tracking = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_tracking_t));
    if (tracking == NULL) {
        return NULL;
    }

    tracking->zone = mcf->zone;
    tracking->data = mcf->keys;
    tracking->digest = mcf->digest;
    tracking->prefix = mcf->prefix;

    tracking->redis = ngx_convotic_redis_tracking(cf, mcf->keys);
    if (tracking->redis == NULL) {
        return NULL;
    }

    p = ngx_pnalloc(cf->pool, 2 * mcf->prefix.len + sizeof("key:gen:"));
    if (p == NULL) {
        return NULL;
    }

    tracking->keys.data = p;
    p = ngx_sprintf(p, "%Vkey:", &mcf->prefix);
    tracking->keys.len = p - tracking->keys.data;

    tracking->generations.data = p;
    p = ngx_sprintf(p, "%Vgen:", &mcf->prefix);
    tracking->generations.len = p - tracking->generations.data;

    return tracking;
}


void
ngx_convotic_tracking_start(ngx_convotic_tracking_t *tracking,
    ngx_cycle_t *cycle)
{
    tracking->id = ((ngx_atomic_uint_t) ngx_pid << 32)
                   | (ngx_atomic_fetch_add(&tracking->zone->coherence->nonce,
                                           1)
                      & 0xffffffff);

    tracking->tick.handler = ngx_convotic_tracking_tick_handler;
    tracking->tick.data = tracking;
    tracking->tick.log = cycle->log;
    tracking->tick.cancelable = 1;

    /* not cancelable: the worker is to live until another one listens */

    tracking->leave.handler = ngx_convotic_tracking_leave_handler;
    tracking->leave.data = tracking;
    tracking->leave.log = cycle->log;

    ngx_convotic_redis_listen(tracking->redis, &ngx_convotic_tracking_events,
                              tracking);

    ngx_convotic_tracking_claim(tracking);

    ngx_add_timer(&tracking->tick, NGX_CONVOTIC_TRACKING_TICK);
}


void
ngx_convotic_tracking_stop(ngx_convotic_tracking_t *tracking)
{
    if (tracking->id) {
        ngx_convotic_tracking_end(tracking);
    }
}


static void
ngx_convotic_tracking_tick_handler(ngx_event_t *ev)
{
    ngx_convotic_tracking_t  *tracking = ev->data;

    if (ngx_exiting) {
        return;
    }

    if (ngx_convotic_tracking_is_stuck(tracking)) {
        ngx_convotic_redis_stop(tracking->redis);
        ngx_convotic_tracking_lost(tracking);
        tracking->state = NGX_CONVOTIC_TRACKING_IDLE;
    }

    ngx_convotic_tracking_claim(tracking);

    if (tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED
        && ngx_convotic_tracking_older(tracking->pinged,
                                       NGX_CONVOTIC_TRACKING_PING))
    {
        ngx_convotic_tracking_ping(tracking);
    }

    ngx_add_timer(ev, NGX_CONVOTIC_TRACKING_TICK);
}


/*
 * A handshake without an end; or a server that the commands have left, for it
 * is a master no longer: in subscribed mode it cannot be asked for its role.
 */

static ngx_uint_t
ngx_convotic_tracking_is_stuck(ngx_convotic_tracking_t *tracking)
{
    ngx_str_t  *run_id, *other;

    if (tracking->state == NGX_CONVOTIC_TRACKING_BEGINNING) {
        return tracking->began
               && ngx_convotic_tracking_older(tracking->began,
                                              NGX_CONVOTIC_TRACKING_STUCK);
    }

    if (tracking->state != NGX_CONVOTIC_TRACKING_CONFIRMED) {
        return 0;
    }

    run_id = ngx_convotic_redis_run_id(tracking->redis);
    other = ngx_convotic_redis_run_id(tracking->data);

    if (!ngx_convotic_redis_is_ready(tracking->data)
        || (run_id->len == other->len
            && ngx_memcmp(run_id->data, other->data, run_id->len) == 0))
    {
        tracking->apart = 0;
        return 0;
    }

    if (tracking->apart == 0) {
        tracking->apart = ngx_current_msec | 1;
    }

    return ngx_convotic_tracking_older(tracking->apart,
                                       NGX_CONVOTIC_TRACKING_APART);
}


/* holds, succeeds, or is there in case somebody is needed */

static void
ngx_convotic_tracking_claim(ngx_convotic_tracking_t *tracking)
{
    ngx_uint_t                 begin, end;
    ngx_msec_t                 now;
    ngx_convotic_coherence_t  *co;

    now = ngx_current_msec;
    co = tracking->zone->coherence;
    begin = 0;
    end = 0;

    if (tracking->refused
        && !ngx_convotic_tracking_older(tracking->refused,
                                        NGX_CONVOTIC_TRACKING_REFUSED))
    {
        return;
    }

    /* who stands still with the mutex is not waited for: the next turn does */

    if (!ngx_convotic_zone_trylock(tracking->zone)) {
        return;
    }

    if (co->holder == tracking->id) {
        co->claimed = now;
        begin = (tracking->state == NGX_CONVOTIC_TRACKING_IDLE);

    } else if (co->holder == 0
               || ngx_convotic_tracking_older(co->claimed,
                                              NGX_CONVOTIC_TRACKING_CLAIM)
               || ngx_convotic_tracking_is_gone(co->holder))
    {
        co->holder = tracking->id;
        co->claimed = now;
        co->leaving = 0;
        co->successor = 0;

        /* nobody has listened since; the epoch ends when somebody does */

        co->stamp = 0;
        begin = (tracking->state == NGX_CONVOTIC_TRACKING_IDLE);

        /* a successor to whom nothing was handed over listens already */

        if (tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED) {
            ngx_convotic_tracking_epoch_locked(tracking);
        }

    } else if (co->successor == tracking->id) {
        co->candidate = now;
        co->successor_claimed = now;

    } else if (co->leaving
               && (co->successor == 0
                   || ngx_convotic_tracking_older(co->successor_claimed,
                                              NGX_CONVOTIC_TRACKING_CLAIM)))
    {
        co->successor = tracking->id;
        co->successor_claimed = now;
        co->successor_ready = 0;
        co->candidate = now;
        begin = (tracking->state == NGX_CONVOTIC_TRACKING_IDLE);

        if (tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED) {
            ngx_convotic_tracking_successor_locked(tracking);
        }

    } else {
        co->candidate = now;
        end = (tracking->state != NGX_CONVOTIC_TRACKING_IDLE);
    }

    ngx_convotic_zone_unlock(tracking->zone);

    if (end) {

        /* this one stood still, and was succeeded */

        ngx_convotic_redis_stop(tracking->redis);
        tracking->state = NGX_CONVOTIC_TRACKING_IDLE;
    }

    if (begin) {
        ngx_convotic_tracking_begin(tracking);
    }
}


/* of the entries that this connection tells of from now on */

static void
ngx_convotic_tracking_epoch_locked(ngx_convotic_tracking_t *tracking)
{
    ngx_convotic_coherence_t  *co;

    co = tracking->zone->coherence;

    co->run_id = ngx_convotic_records_run_id(tracking->zone,
                              ngx_convotic_redis_run_id(tracking->redis));
    co->epoch++;
}


/* each connection has a number; of another server it would be no overlap */

static void
ngx_convotic_tracking_successor_locked(ngx_convotic_tracking_t *tracking)
{
    ngx_convotic_coherence_t  *co;

    co = tracking->zone->coherence;

    co->successor_ready = 0;

    if (co->run_id == ngx_convotic_records_run_id(tracking->zone,
                              ngx_convotic_redis_run_id(tracking->redis)))
    {
        co->successor_ready = ++co->nonce;
    }
}


static ngx_uint_t
ngx_convotic_tracking_is_gone(ngx_atomic_uint_t id)
{
    return kill((ngx_pid_t) (id >> 32), 0) == -1 && ngx_errno == NGX_ESRCH;
}


static void
ngx_convotic_tracking_begin(ngx_convotic_tracking_t *tracking)
{
    tracking->state = NGX_CONVOTIC_TRACKING_BEGINNING;
    tracking->began = 0;
    tracking->refused = 0;

    ngx_convotic_redis_start(tracking->redis, (ngx_cycle_t *) ngx_cycle);
}


/* nobody listens from here on, unless somebody has succeeded */

static void
ngx_convotic_tracking_end(ngx_convotic_tracking_t *tracking)
{
    ngx_convotic_coherence_t  *co;

    co = tracking->zone->coherence;

    ngx_convotic_zone_lock(tracking->zone);

    if (co->holder == tracking->id) {
        co->holder = 0;
        co->leaving = 0;
        co->stamp = 0;

        if (tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED) {
            co->epoch++;
        }
    }

    if (co->successor == tracking->id) {
        co->successor = 0;
    }

    ngx_convotic_zone_unlock(tracking->zone);

    ngx_convotic_redis_stop(tracking->redis);
    tracking->state = NGX_CONVOTIC_TRACKING_IDLE;

    if (tracking->leave.timer_set) {
        ngx_del_timer(&tracking->leave);
    }
}


static void
ngx_convotic_tracking_ping(ngx_convotic_tracking_t *tracking)
{
    ngx_str_t  ping;

    if (tracking->asking) {
        return;
    }

    ngx_str_set(&ping, "PING");

    tracking->asked = ngx_current_msec;
    tracking->pinged = ngx_current_msec;

    if (ngx_convotic_redis_send(tracking->redis, 1, &ping,
                                ngx_convotic_tracking_pong_handler, tracking))
    {
        tracking->asking = 1;
    }
}


static void
ngx_convotic_tracking_pong_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_uint_t                 handed;
    ngx_atomic_uint_t          successor;
    ngx_convotic_coherence_t  *co;
    ngx_convotic_tracking_t   *tracking = data;

    tracking->asking = 0;

    if (reply == NULL || reply->type == NGX_CONVOTIC_RESP_ERROR) {
        return;
    }

    co = tracking->zone->coherence;
    handed = 0;

    ngx_convotic_zone_lock(tracking->zone);

    if (co->holder == tracking->id) {
        co->stamp = tracking->asked | 1;
        co->claimed = ngx_current_msec;

        /* the connections overlap: nothing has been missed */

        if (tracking->handing && co->successor
            && tracking->handing == co->successor_ready)
        {
            handed = 1;

            /*
             * The holder last: as long as it is this worker, its death is
             * noticed and another one takes over.
             */

            successor = co->successor;

            co->leaving = 0;
            co->successor = 0;

            ngx_memory_barrier();

            co->holder = successor;
        }
    }

    ngx_convotic_zone_unlock(tracking->zone);

    if (handed) {
        ngx_log_error(NGX_LOG_INFO, tracking->leave.log, 0,
                      "tracking was handed over");
        ngx_convotic_tracking_end(tracking);
    }
}


static void
ngx_convotic_tracking_ready(void *data)
{
    ngx_str_t                 argv[2];
    ngx_convotic_tracking_t  *tracking = data;

    tracking->state = NGX_CONVOTIC_TRACKING_BEGINNING;
    tracking->began = ngx_current_msec | 1;
    tracking->apart = 0;
    tracking->asking = 0;

    ngx_str_set(&argv[0], "CLIENT");
    ngx_str_set(&argv[1], "ID");

    (void) ngx_convotic_redis_send(tracking->redis, 2, argv,
                                   ngx_convotic_tracking_id_handler,
                                   tracking);
}


static void
ngx_convotic_tracking_id_handler(void *data, ngx_convotic_resp_t *reply)
{
    u_char                    id[NGX_INT64_LEN];
    ngx_str_t                 argv[10];
    ngx_convotic_tracking_t  *tracking = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_INTEGER) {
        ngx_convotic_tracking_refuse(tracking, reply);
        return;
    }

    ngx_str_set(&argv[0], "CLIENT");
    ngx_str_set(&argv[1], "TRACKING");
    ngx_str_set(&argv[2], "ON");
    ngx_str_set(&argv[3], "REDIRECT");
    argv[4].data = id;
    argv[4].len = ngx_sprintf(id, "%L", reply->integer) - id;
    ngx_str_set(&argv[5], "BCAST");
    ngx_str_set(&argv[6], "PREFIX");
    argv[7] = tracking->keys;
    ngx_str_set(&argv[8], "PREFIX");
    argv[9] = tracking->generations;

    (void) ngx_convotic_redis_send(tracking->redis, 10, argv,
                                   ngx_convotic_tracking_on_handler,
                                   tracking);
}


static void
ngx_convotic_tracking_on_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_str_t                 argv[2];
    ngx_convotic_tracking_t  *tracking = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STATUS) {
        ngx_convotic_tracking_refuse(tracking, reply);
        return;
    }

    ngx_str_set(&argv[0], "SUBSCRIBE");
    ngx_str_set(&argv[1], NGX_CONVOTIC_TRACKING_CHANNEL);

    (void) ngx_convotic_redis_send(tracking->redis, 2, argv,
                                   ngx_convotic_tracking_subscribe_handler,
                                   tracking);
}


static void
ngx_convotic_tracking_subscribe_handler(void *data,
    ngx_convotic_resp_t *reply)
{
    ngx_convotic_tracking_t  *tracking = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY || reply->nelts != 3
        || reply->elts[0]->type != NGX_CONVOTIC_RESP_STRING
        || reply->elts[0]->str.len != 9
        || ngx_memcmp(reply->elts[0]->str.data, "subscribe", 9) != 0)
    {
        ngx_convotic_tracking_refuse(tracking, reply);
        return;
    }

    ngx_convotic_tracking_confirmed(tracking);
}


/* what was written before was told to nobody: a new epoch begins */

static void
ngx_convotic_tracking_confirmed(ngx_convotic_tracking_t *tracking)
{
    ngx_uint_t                 succeeds;
    ngx_convotic_coherence_t  *co;

    co = tracking->zone->coherence;
    succeeds = 0;

    tracking->state = NGX_CONVOTIC_TRACKING_CONFIRMED;

    ngx_convotic_zone_lock(tracking->zone);

    if (co->holder == tracking->id) {
        ngx_convotic_tracking_epoch_locked(tracking);
        co->stamp = ngx_current_msec | 1;
        co->unsupported = 0;

    } else if (co->successor == tracking->id) {
        succeeds = 1;
        ngx_convotic_tracking_successor_locked(tracking);
    }

    ngx_convotic_zone_unlock(tracking->zone);

    if (!succeeds) {
        ngx_convotic_zone_count(tracking->zone,
                                NGX_CONVOTIC_COUNT_TRACKING_CONFIRMED);
    }

    ngx_log_error(NGX_LOG_INFO, tracking->tick.log, 0,
                  "changes of keys and generations are tracked, redis: "
                  "\"%V\"", ngx_convotic_redis_name(tracking->redis));

    ngx_convotic_tracking_ping(tracking);
}


/* an old server, or no permission: said once, tried again from time to time */

static void
ngx_convotic_tracking_refuse(ngx_convotic_tracking_t *tracking,
    ngx_convotic_resp_t *reply)
{
    size_t                     i;
    ngx_uint_t                 known;
    ngx_convotic_coherence_t  *co;

    co = tracking->zone->coherence;

    for (i = 0; i < reply->str.len; i++) {
        if (reply->str.data[i] < ' ' || reply->str.data[i] > '~') {
            reply->str.data[i] = '?';
        }
    }

    ngx_convotic_zone_lock(tracking->zone);

    known = co->unsupported;
    co->unsupported = 1;

    ngx_convotic_zone_unlock(tracking->zone);

    if (!known) {
        ngx_log_error(NGX_LOG_WARN, tracking->tick.log, 0,
                      "Redis does not let its keys be tracked: what is "
                      "known of keys and generations lives one second, "
                      "redis: \"%V\"%s%V",
                      ngx_convotic_redis_name(tracking->redis),
                      reply->str.len ? ": " : "", &reply->str);
    }

    ngx_convotic_tracking_end(tracking);

    tracking->refused = ngx_current_msec | 1;
}


static void
ngx_convotic_tracking_lost(void *data)
{
    ngx_uint_t                 lost;
    ngx_convotic_coherence_t  *co;
    ngx_convotic_tracking_t   *tracking = data;

    co = tracking->zone->coherence;
    lost = (tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED);

    tracking->state = NGX_CONVOTIC_TRACKING_BEGINNING;
    tracking->began = 0;
    tracking->asking = 0;

    if (!lost) {
        return;
    }

    ngx_convotic_zone_lock(tracking->zone);

    if (co->holder == tracking->id) {
        co->stamp = 0;
        co->epoch++;

    } else if (co->successor == tracking->id) {
        co->successor_ready = 0;
    }

    ngx_convotic_zone_unlock(tracking->zone);

    ngx_convotic_zone_count(tracking->zone, NGX_CONVOTIC_COUNT_TRACKING_LOST);
}


/* the worker exits: another is to listen before this one ceases to */

static void
ngx_convotic_tracking_exiting(void *data)
{
    ngx_uint_t                 wait;
    ngx_convotic_coherence_t  *co;
    ngx_convotic_tracking_t   *tracking = data;

    if (tracking->leaving) {
        return;
    }

    co = tracking->zone->coherence;

    ngx_convotic_zone_lock(tracking->zone);

    wait = (co->holder == tracking->id
            && tracking->state == NGX_CONVOTIC_TRACKING_CONFIRMED
            && !ngx_convotic_tracking_older(co->candidate,
                                           NGX_CONVOTIC_TRACKING_CANDIDATE));
    if (wait) {
        co->leaving = 1;
    }

    ngx_convotic_zone_unlock(tracking->zone);

    if (!wait) {
        ngx_convotic_tracking_end(tracking);
        return;
    }

    tracking->leaving = 1;
    tracking->left = ngx_current_msec;

    ngx_add_timer(&tracking->leave, NGX_CONVOTIC_TRACKING_TICK);
}


static void
ngx_convotic_tracking_leave_handler(ngx_event_t *ev)
{
    ngx_uint_t                 alone;
    ngx_atomic_uint_t          ready;
    ngx_convotic_coherence_t  *co;
    ngx_convotic_tracking_t   *tracking = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic tracking leave handler");

    co = tracking->zone->coherence;

    ngx_convotic_zone_lock(tracking->zone);

    alone = (co->holder != tracking->id
             || tracking->state != NGX_CONVOTIC_TRACKING_CONFIRMED
             || ngx_convotic_tracking_older(co->candidate,
                                            NGX_CONVOTIC_TRACKING_CANDIDATE)
             || ngx_convotic_tracking_older(tracking->left,
                                            NGX_CONVOTIC_TRACKING_LEAVING));

    ready = co->successor ? co->successor_ready : 0;

    if (!alone) {
        co->claimed = ngx_current_msec;
    }

    ngx_convotic_zone_unlock(tracking->zone);

    if (alone) {
        ngx_convotic_tracking_end(tracking);
        return;
    }

    /* a PING that was under way before says nothing of the time since */

    if (!ready) {
        tracking->handing = 0;

    } else if (!tracking->asking) {
        tracking->handing = ready;
    }

    ngx_convotic_tracking_ping(tracking);

    ngx_add_timer(ev, NGX_CONVOTIC_TRACKING_TICK / 4);
}


/*
 * Anybody may publish in the channel, and any client may have its tracking
 * redirected to this connection.  What comes so can do no harm beyond that of
 * an entry which is read again.
 */

static void
ngx_convotic_tracking_message(void *data, ngx_convotic_resp_t *message)
{
    size_t                    i;
    ngx_convotic_resp_t      *channel, *names;
    ngx_convotic_tracking_t  *tracking = data;

    static ngx_str_t  name = ngx_string(NGX_CONVOTIC_TRACKING_CHANNEL);

    if (message->nelts != 3
        || message->elts[1]->type != NGX_CONVOTIC_RESP_STRING)
    {
        ngx_convotic_tracking_foreign(tracking);
        return;
    }

    channel = message->elts[1];
    names = message->elts[2];

    if (channel->str.len != name.len
        || ngx_memcmp(channel->str.data, name.data, name.len) != 0)
    {
        ngx_convotic_tracking_foreign(tracking);
        return;
    }

    /* FLUSHALL, or as many names as one message should not have */

    if (names->type == NGX_CONVOTIC_RESP_NIL
        || (names->type == NGX_CONVOTIC_RESP_ARRAY && names->oversize))
    {
        ngx_convotic_tracking_flush(tracking);
        return;
    }

    if (names->type != NGX_CONVOTIC_RESP_ARRAY) {
        ngx_convotic_tracking_foreign(tracking);
        return;
    }

    for (i = 0; i < names->nelts; i++) {

        if (names->elts[i]->type != NGX_CONVOTIC_RESP_STRING) {
            ngx_convotic_tracking_foreign(tracking);
            continue;
        }

        ngx_convotic_tracking_changed(tracking, &names->elts[i]->str);
    }
}


static void
ngx_convotic_tracking_changed(ngx_convotic_tracking_t *tracking,
    ngx_str_t *name)
{
    u_char      digest[NGX_CONVOTIC_DIGEST_LEN];
    ngx_str_t   rest, *prefix;

    prefix = &tracking->keys;

    if (name->len > prefix->len
        && ngx_memcmp(name->data, prefix->data, prefix->len) == 0)
    {
        rest.data = name->data + prefix->len;
        rest.len = name->len - prefix->len;

        /* a name that no key has */

        if (ngx_convotic_tracking_unhex(&rest, digest) != NGX_OK) {
            ngx_convotic_tracking_foreign(tracking);
            return;
        }

        ngx_convotic_records_invalidate_key(tracking->zone, digest);
        ngx_convotic_leases_doubt(tracking->zone, digest);
        ngx_convotic_zone_count(tracking->zone,
                                NGX_CONVOTIC_COUNT_INVALIDATED_KEY);
        return;
    }

    prefix = &tracking->generations;

    if (name->len <= prefix->len
        || ngx_memcmp(name->data, prefix->data, prefix->len) != 0)
    {
        ngx_convotic_tracking_foreign(tracking);
        return;
    }

    rest.data = name->data + prefix->len;
    rest.len = name->len - prefix->len;

    if (rest.len < 3 || rest.len > NGX_CONVOTIC_NAME_LEN + 2
        || rest.data[0] != '{' || rest.data[rest.len - 1] != '}')
    {
        ngx_convotic_tracking_foreign(tracking);

        if (ngx_time() - tracking->warned < NGX_CONVOTIC_TRACKING_WARN) {
            return;
        }

        tracking->warned = ngx_time();

        ngx_log_error(NGX_LOG_WARN, tracking->tick.log, 0,
                      "a generation was written that no workspace has, "
                      "perhaps a purge of the wrong name: it is "
                      "\"%Vgen:{workspace}\", with the braces, redis: \"%V\"",
                      &tracking->prefix,
                      ngx_convotic_redis_name(tracking->redis));
        return;
    }

    rest.data++;
    rest.len -= 2;

    if (ngx_convotic_digest(tracking->digest, &rest, 1, digest) != NGX_OK) {
        ngx_convotic_tracking_flush(tracking);
        return;
    }

    ngx_convotic_records_invalidate_generation(tracking->zone, digest);
    ngx_convotic_zone_count(tracking->zone,
                            NGX_CONVOTIC_COUNT_INVALIDATED_GENERATION);
}


static void
ngx_convotic_tracking_flush(ngx_convotic_tracking_t *tracking)
{
    ngx_convotic_records_flush(tracking->zone);

    ngx_convotic_zone_count(tracking->zone,
                            NGX_CONVOTIC_COUNT_INVALIDATED_ALL);
}


static void
ngx_convotic_tracking_foreign(ngx_convotic_tracking_t *tracking)
{
    ngx_convotic_zone_count(tracking->zone,
                            NGX_CONVOTIC_COUNT_INVALIDATED_FOREIGN);
}


/* lower case, as the names of keys are made */

static ngx_int_t
ngx_convotic_tracking_unhex(ngx_str_t *hex, u_char *value)
{
    size_t     i;
    ngx_int_t  n;

    if (hex->len != NGX_CONVOTIC_HEX_LEN) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_CONVOTIC_DIGEST_LEN; i++) {
        n = ngx_hextoi(hex->data + 2 * i, 2);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        value[i] = (u_char) n;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_convotic_tracking_older(ngx_msec_t since, ngx_msec_t age)
{
    return (ngx_msec_int_t) (ngx_current_msec - since)
           > (ngx_msec_int_t) age;
}
