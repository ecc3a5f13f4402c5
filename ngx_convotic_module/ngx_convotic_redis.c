
/*
 * Owns the connection of a worker to a Redis server: its state, its timers,
 * the commands that wait for replies, and when to try again.
 *
 * Replies match slots in the order of a queue.  A cancelled slot stays in it
 * until its reply has come; a connection on which one did not come in time
 * is closed, for all that follows would be taken for somebody else's.
 *
 * The connection belongs to no request: its log and its pool are its own.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_peer.h"
#include "ngx_convotic_greeting.h"
#include "ngx_convotic_redis.h"


/* an attempt after a failure, with jitter against a herd of workers */
#define NGX_CONVOTIC_REDIS_RETRY_FIRST   100    /* to 200 ms */
#define NGX_CONVOTIC_REDIS_RETRY         700    /* to 1000 ms */
#define NGX_CONVOTIC_REDIS_RETRY_JITTER  300

/* a connection that was lost sooner than this has failed */
#define NGX_CONVOTIC_REDIS_LIFE_MIN      1000   /* ms */

/* how often the server is asked whether it is still what it was */
#define NGX_CONVOTIC_REDIS_CHECK         1000   /* ms */

/* a kind of error of commands is logged again after this */
#define NGX_CONVOTIC_REDIS_LOG_INTERVAL  60     /* s */

/* bytes of a read, and reads of a ready socket before others have a turn */
#define NGX_CONVOTIC_REDIS_READ          65536
#define NGX_CONVOTIC_REDIS_READS         8

/* commands that the kernel has not taken yet, and the buffer that is kept */
#define NGX_CONVOTIC_REDIS_OUT_MAX       (64 * 1024 * 1024)
#define NGX_CONVOTIC_REDIS_OUT_KEEP      (256 * 1024)

/* of bodies that wait for a connection, beside the first one */
#define NGX_CONVOTIC_REDIS_POSTED_MAX    (16 * 1024 * 1024)

/* at least, for a TRACKING connection: nobody's request waits for it */
#define NGX_CONVOTIC_REDIS_TRACKING_TIMEOUT  1000   /* ms */

/* as much of a password as gives it away */
#define NGX_CONVOTIC_REDIS_SECRET        6

/* of a reply's error: its first word, and what is logged of it */
#define NGX_CONVOTIC_REDIS_CODE_LEN      32
#define NGX_CONVOTIC_REDIS_TEXT_MAX      256

/* of errors that are remembered, so that each is logged once a minute */
#define NGX_CONVOTIC_REDIS_KINDS         8


typedef enum {
    NGX_CONVOTIC_REDIS_IDLE = 0,
    NGX_CONVOTIC_REDIS_RESOLVING,
    NGX_CONVOTIC_REDIS_CONNECTING,
    NGX_CONVOTIC_REDIS_GREETING,         /* AUTH, SELECT, ROLE ... sent */
    NGX_CONVOTIC_REDIS_READY,
    NGX_CONVOTIC_REDIS_WAITING           /* for the next attempt */
} ngx_convotic_redis_state_e;


typedef enum {
    NGX_CONVOTIC_REDIS_SLOT_REQUEST,     /* somebody waits */
    NGX_CONVOTIC_REDIS_SLOT_NOBODY,      /* cancelled, or posted */
    NGX_CONVOTIC_REDIS_SLOT_OWN          /* a command of the greeting's */
} ngx_convotic_redis_slot_e;


struct ngx_convotic_redis_slot_s {
    ngx_queue_t                     queue;
    ngx_convotic_redis_slot_e       type;
    ngx_convotic_greeting_e         step;        /* OWN */
    ngx_convotic_redis_handler_pt   handler;
    void                           *data;
    ngx_msec_t                      deadline;
    ngx_str_t                       command;     /* kept to send it again */
    ngx_uint_t                      attempts;
};


/* a kind of error, and when it was last logged; 0: never */

typedef struct {
    time_t                          time;
    u_char                          code[NGX_CONVOTIC_REDIS_CODE_LEN];
} ngx_convotic_redis_logged_t;


struct ngx_convotic_redis_s {
    /* read-only once nginx has started */

    ngx_convotic_redis_conf_t       conf;
    ngx_convotic_peer_t            *peer;
    ngx_convotic_zone_t            *zone;
    size_t                          reply_max;

    /* a worker's */

    ngx_convotic_redis_state_e      state;
    ngx_uint_t                      number;      /* of the connection */
    ngx_uint_t                      failures;    /* in a row; 0: trusted */
    ngx_uint_t                      retries;     /* since it last kept up */
    ngx_uint_t                      dead;        /* addresses, meanwhile */
    ngx_connection_t               *connection;
    ngx_convotic_greeting_t         greeting;
    ngx_convotic_resp_reader_t     *reader;
    ngx_msec_t                      ready_since;
    ngx_str_t                       run_id;
    u_char                          run_id_buf[NGX_CONVOTIC_RUN_ID_LEN];

    const ngx_convotic_redis_events_t  *events;  /* TRACKING */
    void                           *data;

    ngx_queue_t                     sent;        /* in the order of replies */
    ngx_queue_t                     pending;     /* until READY */
    size_t                          posted;      /* bytes, for nobody, of it */
    ngx_buf_t                       out;

    ngx_event_t                     flush;
    ngx_event_t                     timer;       /* connecting, or replies */
    ngx_event_t                     retry;
    ngx_event_t                     check;

    ngx_log_t                       log;
    ngx_pool_t                     *pool;        /* of the connection */
    u_char                          said[NGX_CONVOTIC_REDIS_CODE_LEN];
    ngx_convotic_redis_logged_t     logged[NGX_CONVOTIC_REDIS_KINDS];
};


static void ngx_convotic_redis_connect(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_peer_handler(void *data, ngx_int_t rc);
static void ngx_convotic_redis_open(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_unreachable(ngx_convotic_redis_t *redis);
static ngx_uint_t ngx_convotic_redis_has_another(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_greet(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_say(ngx_convotic_redis_t *redis,
    ngx_convotic_greeting_e step);
static void ngx_convotic_redis_judge(ngx_convotic_redis_t *redis,
    ngx_convotic_greeting_e step, ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_ready(ngx_convotic_redis_t *redis);
static ngx_convotic_redis_slot_t *ngx_convotic_redis_queue(
    ngx_convotic_redis_t *redis, ngx_convotic_redis_slot_e type,
    ngx_uint_t argc, ngx_str_t *argv);
static ngx_convotic_redis_slot_t *ngx_convotic_redis_create_slot(
    ngx_convotic_redis_t *redis, ngx_convotic_redis_slot_e type,
    ngx_uint_t argc, ngx_str_t *argv);
static ngx_int_t ngx_convotic_redis_write(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_uint_t argc, ngx_str_t *argv);
static ngx_int_t ngx_convotic_redis_reserve(ngx_convotic_redis_t *redis,
    size_t len);
static void ngx_convotic_redis_arm(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_flush_handler(ngx_event_t *ev);
static void ngx_convotic_redis_write_handler(ngx_event_t *wev);
static void ngx_convotic_redis_read_handler(ngx_event_t *rev);
static ngx_int_t ngx_convotic_redis_feed(ngx_convotic_redis_t *redis,
    u_char *p, size_t len);
static ngx_int_t ngx_convotic_redis_replies(ngx_convotic_redis_t *redis);
static ngx_uint_t ngx_convotic_redis_is_message(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply);
static ngx_int_t ngx_convotic_redis_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_deliver(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_deliver_tracking(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_timer_handler(ngx_event_t *ev);
static void ngx_convotic_redis_retry_handler(ngx_event_t *ev);
static void ngx_convotic_redis_check_handler(ngx_event_t *ev);
static void ngx_convotic_redis_lost(ngx_convotic_redis_t *redis,
    const char *what);
static void ngx_convotic_redis_lost_tracking(ngx_convotic_redis_t *redis,
    const char *what);
static ngx_uint_t ngx_convotic_redis_kept_up(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_fail(ngx_convotic_redis_t *redis,
    const char *what);
static void ngx_convotic_redis_log_failure(ngx_convotic_redis_t *redis,
    const char *what);
static void ngx_convotic_redis_tell(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_close(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_disconnect(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_abandon(ngx_queue_t *queue);
static ngx_uint_t ngx_convotic_redis_repeats(ngx_str_t *text,
    ngx_str_t *password);
static void ngx_convotic_redis_log_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_unwrap(ngx_str_t *text);
static void ngx_convotic_redis_code(ngx_str_t *text, u_char *code);
static void ngx_convotic_redis_log_code(ngx_convotic_redis_t *redis,
    const char *code, const char *text, ngx_uint_t level);
static void ngx_convotic_redis_count(ngx_convotic_redis_t *redis,
    ngx_uint_t count);
static void ngx_convotic_redis_away(ngx_convotic_redis_t *redis,
    ngx_uint_t away);
static u_char *ngx_convotic_redis_log_handler(ngx_log_t *log, u_char *buf,
    size_t len);


/* not Redis's own OOM */

static const char  ngx_convotic_redis_no_memory[] =
    "this worker has no memory";


ngx_convotic_redis_t *
ngx_convotic_redis_create(ngx_conf_t *cf, ngx_convotic_redis_conf_t *conf)
{
    ngx_convotic_redis_t  *redis;

    redis = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_redis_t));
    if (redis == NULL) {
        return NULL;
    }

    redis->conf = *conf;

    redis->peer = ngx_convotic_peer_create(cf, &conf->url);
    if (redis->peer == NULL) {
        return NULL;
    }

    return redis;
}


void
ngx_convotic_redis_configure(ngx_convotic_redis_t *redis,
    ngx_convotic_zone_t *zone, size_t reply_max, ngx_resolver_t *resolver,
    ngx_msec_t resolver_timeout)
{
    redis->zone = zone;
    redis->reply_max = reply_max;

    ngx_convotic_peer_configure(redis->peer, resolver, resolver_timeout);
}


ngx_convotic_redis_t *
ngx_convotic_redis_tracking(ngx_conf_t *cf, ngx_convotic_redis_t *redis)
{
    ngx_convotic_redis_t       *tracking;
    ngx_convotic_redis_conf_t  *conf;

    tracking = ngx_palloc(cf->pool, sizeof(ngx_convotic_redis_t));
    if (tracking == NULL) {
        return NULL;
    }

    *tracking = *redis;

    tracking->peer = ngx_convotic_peer_copy(cf, redis->peer);
    if (tracking->peer == NULL) {
        return NULL;
    }

    conf = &tracking->conf;

    conf->role = NGX_CONVOTIC_REDIS_TRACKING;
    conf->connect_timeout = ngx_max(conf->connect_timeout,
                                    NGX_CONVOTIC_REDIS_TRACKING_TIMEOUT);
    conf->timeout = ngx_max(conf->timeout,
                            NGX_CONVOTIC_REDIS_TRACKING_TIMEOUT);

    return tracking;
}


void
ngx_convotic_redis_listen(ngx_convotic_redis_t *redis,
    const ngx_convotic_redis_events_t *events, void *data)
{
    redis->events = events;
    redis->data = data;
}


void
ngx_convotic_redis_start(ngx_convotic_redis_t *redis, ngx_cycle_t *cycle)
{
    if (redis->state != NGX_CONVOTIC_REDIS_IDLE) {
        return;
    }

    redis->log = *cycle->log;
    redis->log.handler = ngx_convotic_redis_log_handler;
    redis->log.data = redis;
    redis->log.action = NULL;

    ngx_queue_init(&redis->sent);
    ngx_queue_init(&redis->pending);

    redis->run_id.data = redis->run_id_buf;

    redis->dead = 0;

    redis->greeting.url = &redis->conf.url;
    redis->greeting.master = (redis->conf.role != NGX_CONVOTIC_REDIS_BODIES);
    redis->greeting.suffix = (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING)
                             ? "-tracking" : "";

    ngx_convotic_redis_away(redis, 0);

    redis->flush.handler = ngx_convotic_redis_flush_handler;
    redis->flush.data = redis;
    redis->flush.log = &redis->log;

    redis->timer.handler = ngx_convotic_redis_timer_handler;
    redis->timer.data = redis;
    redis->timer.log = &redis->log;

    redis->retry.handler = ngx_convotic_redis_retry_handler;
    redis->retry.data = redis;
    redis->retry.log = &redis->log;
    redis->retry.cancelable = 1;

    redis->check.handler = ngx_convotic_redis_check_handler;
    redis->check.data = redis;
    redis->check.log = &redis->log;
    redis->check.cancelable = 1;

    /* the time is that of the configuration's reading, perhaps long ago */

    ngx_time_update();

    ngx_convotic_redis_connect(redis);
}


void
ngx_convotic_redis_stop(ngx_convotic_redis_t *redis)
{
    if (redis->log.handler == NULL) {
        return;
    }

    ngx_convotic_redis_close(redis);

    if (redis->retry.timer_set) {
        ngx_del_timer(&redis->retry);
    }

    redis->state = NGX_CONVOTIC_REDIS_IDLE;

    ngx_convotic_redis_abandon(&redis->sent);
    ngx_convotic_redis_abandon(&redis->pending);
    redis->posted = 0;

    if (redis->out.start) {
        ngx_free(redis->out.start);
        ngx_memzero(&redis->out, sizeof(ngx_buf_t));
    }
}


ngx_convotic_redis_slot_t *
ngx_convotic_redis_send(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv, ngx_convotic_redis_handler_pt handler, void *data)
{
    ngx_convotic_redis_slot_t  *slot;

    slot = ngx_convotic_redis_queue(redis, NGX_CONVOTIC_REDIS_SLOT_REQUEST,
                                    argc, argv);

    if (slot) {
        slot->handler = handler;
        slot->data = data;
    }

    return slot;
}


ngx_int_t
ngx_convotic_redis_post(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv)
{
    return ngx_convotic_redis_queue(redis, NGX_CONVOTIC_REDIS_SLOT_NOBODY,
                                    argc, argv)
           ? NGX_OK : NGX_ERROR;
}


void
ngx_convotic_redis_hurry(ngx_convotic_redis_t *redis)
{
    ssize_t            n;
    ngx_buf_t         *out;
    ngx_connection_t  *c;

    c = redis->connection;
    out = &redis->out;

    if (redis->state != NGX_CONVOTIC_REDIS_READY || !c->write->ready
        || out->pos == out->last)
    {
        return;
    }

    /* an error is met again, and handled, when the rest is sent */

    n = c->send(c, out->pos, out->last - out->pos);

    if (n > 0) {
        out->pos += n;

    } else if (n == NGX_AGAIN) {
        (void) ngx_handle_write_event(c->write, 0);
    }
}


void
ngx_convotic_redis_once(ngx_convotic_redis_slot_t *slot)
{
    slot->attempts++;
}


void
ngx_convotic_redis_cancel(ngx_convotic_redis_slot_t *slot)
{
    slot->type = NGX_CONVOTIC_REDIS_SLOT_NOBODY;
    slot->handler = NULL;
    slot->data = NULL;
}


void
ngx_convotic_redis_distrust(ngx_convotic_redis_t *redis)
{
    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "its replies do not match");
    }
}


void
ngx_convotic_redis_complain(ngx_convotic_redis_t *redis, const char *code,
    const char *text)
{
    ngx_convotic_redis_log_code(redis, code, text, NGX_LOG_ERR);
}


ngx_uint_t
ngx_convotic_redis_is_ready(ngx_convotic_redis_t *redis)
{
    return redis->state == NGX_CONVOTIC_REDIS_READY;
}


ngx_uint_t
ngx_convotic_redis_is_away(ngx_convotic_redis_t *redis)
{
    return redis->failures != 0;
}


ngx_str_t *
ngx_convotic_redis_name(ngx_convotic_redis_t *redis)
{
    return ngx_convotic_peer_name(redis->peer);
}


ngx_uint_t
ngx_convotic_redis_said(ngx_convotic_redis_t *redis, const char *code)
{
    return redis->state == NGX_CONVOTIC_REDIS_READY
           && ngx_strcmp(redis->said, code) == 0;
}


ngx_uint_t
ngx_convotic_redis_number(ngx_convotic_redis_t *redis)
{
    return redis->number;
}


ngx_str_t *
ngx_convotic_redis_run_id(ngx_convotic_redis_t *redis)
{
    return &redis->run_id;
}


static void
ngx_convotic_redis_connect(ngx_convotic_redis_t *redis)
{
    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, &redis->log, 0,
                   "convotic redis connect \"%V\"",
                   ngx_convotic_peer_name(redis->peer));

    redis->log.action = "resolving the name of Redis";
    redis->state = NGX_CONVOTIC_REDIS_RESOLVING;

    ngx_convotic_peer_find(redis->peer, redis->failures, &redis->log,
                           ngx_convotic_redis_peer_handler, redis);
}


static void
ngx_convotic_redis_peer_handler(void *data, ngx_int_t rc)
{
    ngx_convotic_redis_t  *redis = data;

    if (rc != NGX_OK) {
        ngx_convotic_redis_fail(redis, "its name could not be resolved");
        return;
    }

    /* who tracks is to be one that stays */

    if (ngx_exiting && redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
        redis->state = NGX_CONVOTIC_REDIS_IDLE;
        return;
    }

    ngx_convotic_redis_open(redis);
}


static void
ngx_convotic_redis_open(ngx_convotic_redis_t *redis)
{
    ngx_int_t          rc;
    ngx_uint_t         tracking;
    ngx_connection_t  *c;

    redis->log.action = "connecting to Redis";
    redis->state = NGX_CONVOTIC_REDIS_CONNECTING;

    /* covers the connections to all addresses, and the greeting */

    if (!redis->timer.timer_set) {
        ngx_add_timer(&redis->timer, redis->conf.connect_timeout);
    }

    redis->number++;
    redis->run_id.len = 0;

    tracking = (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING);

    redis->reader = ngx_convotic_resp_create(redis->reply_max, tracking,
                                             &redis->log);
    redis->pool = ngx_create_pool(1024, &redis->log);

    if (redis->reader == NULL || redis->pool == NULL) {
        ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
        return;
    }

    /* an attempt that decides nothing, or nothing new, is no error */

    rc = ngx_convotic_peer_open(redis->peer,
                                redis->failures || tracking
                                || ngx_convotic_redis_has_another(redis),
                                &redis->connection);
    if (rc == NGX_ERROR) {
        ngx_convotic_redis_unreachable(redis);
        return;
    }

    c = redis->connection;

    c->data = redis;
    c->pool = redis->pool;
    c->idle = 1;             /* nobody's: a worker may exit with it open */
    c->read->handler = ngx_convotic_redis_read_handler;
    c->write->handler = ngx_convotic_redis_write_handler;

    if (rc == NGX_OK) {
        ngx_convotic_redis_greet(redis);
    }
}


/*
 * While the server is not known to be away, all addresses of its name are
 * tried before it is: what waits may wait until one of them has answered.
 */

static void
ngx_convotic_redis_unreachable(ngx_convotic_redis_t *redis)
{
    if (!ngx_convotic_redis_has_another(redis)) {
        ngx_convotic_redis_fail(redis, "cannot connect");
        return;
    }

    ngx_log_error(NGX_LOG_INFO, &redis->log, 0,
                  "cannot connect to one address of Redis, trying another");

    redis->dead++;

    ngx_convotic_redis_disconnect(redis);
    ngx_convotic_peer_next(redis->peer);
    ngx_convotic_redis_connect(redis);
}


static ngx_uint_t
ngx_convotic_redis_has_another(ngx_convotic_redis_t *redis)
{
    return redis->failures == 0
           && redis->dead + 1 < ngx_convotic_peer_addresses(redis->peer);
}


/* all of it at once, behind which nothing is sent until it has succeeded */

static void
ngx_convotic_redis_greet(ngx_convotic_redis_t *redis)
{
    ngx_uint_t  step;

    redis->log.action = "greeting Redis";
    redis->state = NGX_CONVOTIC_REDIS_GREETING;

    for (step = 0; step < NGX_CONVOTIC_GREETING_STEPS; step++) {
        ngx_convotic_redis_say(redis, step);
    }

    if (redis->state == NGX_CONVOTIC_REDIS_GREETING) {
        ngx_convotic_redis_flush_handler(&redis->flush);
    }
}


static void
ngx_convotic_redis_say(ngx_convotic_redis_t *redis,
    ngx_convotic_greeting_e step)
{
    ngx_convotic_redis_slot_t        *slot;
    ngx_convotic_greeting_command_t   command;

    if (redis->connection == NULL) {
        return;
    }

    ngx_convotic_greeting_command(&redis->greeting, step, &command);

    if (command.argc == 0) {
        return;
    }

    slot = ngx_convotic_redis_create_slot(redis, NGX_CONVOTIC_REDIS_SLOT_OWN,
                                          command.argc, command.argv);
    if (slot == NULL) {
        ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
        return;
    }

    slot->step = step;

    if (ngx_convotic_redis_write(redis, slot, command.argc, command.argv)
        != NGX_OK)
    {
        ngx_free(slot);
        ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
    }
}


static void
ngx_convotic_redis_judge(ngx_convotic_redis_t *redis,
    ngx_convotic_greeting_e step, ngx_convotic_resp_t *reply)
{
    ngx_int_t    rc;
    const char  *why;

    rc = ngx_convotic_greeting_judge(&redis->greeting, step, reply,
                                     &redis->run_id, &why);

    if (rc == NGX_ERROR) {
        ngx_convotic_redis_log_reply(redis, reply);
    }

    if (rc != NGX_OK) {
        ngx_convotic_redis_fail(redis, why);
        return;
    }

    if (step == NGX_CONVOTIC_GREETING_PING) {
        ngx_convotic_redis_ready(redis);
    }
}


static void
ngx_convotic_redis_ready(ngx_convotic_redis_t *redis)
{
    ngx_queue_t                *q;
    ngx_uint_t                  tracking;
    ngx_convotic_redis_slot_t  *slot;

    if (redis->timer.timer_set) {
        ngx_del_timer(&redis->timer);
    }

    redis->log.action = NULL;

    tracking = (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING);

    if (redis->failures && !tracking) {
        ngx_log_error(NGX_LOG_NOTICE, &redis->log, 0, "Redis is back");
    }

    ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_CONNECTIONS);

    redis->failures = 0;
    redis->dead = 0;
    ngx_convotic_redis_away(redis, 0);

    redis->state = NGX_CONVOTIC_REDIS_READY;
    redis->ready_since = ngx_current_msec;

    if (tracking) {
        redis->events->ready(redis->data);
        return;
    }

    ngx_add_timer(&redis->check, NGX_CONVOTIC_REDIS_CHECK);

    redis->posted = 0;

    while (!ngx_queue_empty(&redis->pending)) {

        q = ngx_queue_head(&redis->pending);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (ngx_convotic_redis_write(redis, slot, 0, NULL) != NGX_OK) {
            ngx_queue_insert_head(&redis->pending, q);
            ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
            return;
        }
    }
}


/* a slot in one of the queues, to be given its type by the caller */

static ngx_convotic_redis_slot_t *
ngx_convotic_redis_queue(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_e type, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_convotic_redis_slot_t  *slot;

    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING
        && redis->state != NGX_CONVOTIC_REDIS_READY)
    {
        return NULL;
    }

    if (redis->state == NGX_CONVOTIC_REDIS_IDLE) {

        /* a worker that is exiting has closed it, or has never had it */

        if (redis->log.handler == NULL) {
            return NULL;
        }

        ngx_convotic_redis_connect(redis);
    }

    if (redis->failures) {
        ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_REFUSED);
        return NULL;
    }

    slot = ngx_convotic_redis_create_slot(redis, type, argc, argv);
    if (slot == NULL) {
        return NULL;
    }

    if (redis->state != NGX_CONVOTIC_REDIS_READY) {

        if (type == NGX_CONVOTIC_REDIS_SLOT_NOBODY) {

            if (redis->posted
                && redis->posted + slot->command.len
                   > NGX_CONVOTIC_REDIS_POSTED_MAX)
            {
                ngx_free(slot);
                return NULL;
            }

            redis->posted += slot->command.len;
        }

        ngx_queue_insert_tail(&redis->pending, &slot->queue);
        return slot;
    }

    if (ngx_convotic_redis_write(redis, slot, argc, argv) != NGX_OK) {
        ngx_free(slot);
        return NULL;
    }

    return slot;
}


/*
 * What may have to be sent later, or again, is kept behind the slot.  What
 * is sent now and never again, a body above all, is not.
 */

static ngx_convotic_redis_slot_t *
ngx_convotic_redis_create_slot(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_e type, ngx_uint_t argc, ngx_str_t *argv)
{
    size_t                      len;
    u_char                     *p;
    ngx_convotic_redis_slot_t  *slot;

    len = 0;

    if (type == NGX_CONVOTIC_REDIS_SLOT_REQUEST
        || (type == NGX_CONVOTIC_REDIS_SLOT_NOBODY
            && redis->state != NGX_CONVOTIC_REDIS_READY))
    {
        len = ngx_convotic_resp_length(argc, argv);
    }

    slot = ngx_alloc(sizeof(ngx_convotic_redis_slot_t) + len, &redis->log);
    if (slot == NULL) {
        return NULL;
    }

    ngx_memzero(slot, sizeof(ngx_convotic_redis_slot_t));

    slot->type = type;

    if (len) {
        p = (u_char *) (slot + 1);

        slot->command.data = p;
        slot->command.len = ngx_convotic_resp_encode(p, argc, argv) - p;
    }

    return slot;
}


/* argv: of a command that was not kept; NGX_ERROR: the slot is in no queue */

static ngx_int_t
ngx_convotic_redis_write(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_uint_t argc, ngx_str_t *argv)
{
    size_t      len;
    ngx_buf_t  *out;

    out = &redis->out;

    len = slot->command.len ? slot->command.len
                            : ngx_convotic_resp_length(argc, argv);

    if ((size_t) (out->end - out->last) < len
        && ngx_convotic_redis_reserve(redis, len) != NGX_OK)
    {
        return NGX_ERROR;
    }

    out->last = slot->command.len
                ? ngx_cpymem(out->last, slot->command.data, len)
                : ngx_convotic_resp_encode(out->last, argc, argv);

    slot->deadline = ngx_current_msec + redis->conf.timeout;
    slot->attempts++;

    if (slot->type != NGX_CONVOTIC_REDIS_SLOT_OWN) {
        ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_COMMANDS);
    }

    ngx_queue_insert_tail(&redis->sent, &slot->queue);

    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_arm(redis);

        if (!redis->flush.posted) {
            ngx_post_event(&redis->flush, &ngx_posted_events);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_redis_reserve(ngx_convotic_redis_t *redis, size_t len)
{
    size_t      used, size;
    u_char     *p;
    ngx_buf_t  *out;

    out = &redis->out;

    used = out->last - out->pos;
    size = ngx_max(2 * (used + len), 16384);

    if (size > NGX_CONVOTIC_REDIS_OUT_MAX) {
        return NGX_ERROR;
    }

    p = ngx_alloc(size, &redis->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (out->start) {
        ngx_memcpy(p, out->pos, used);
        ngx_free(out->start);
    }

    out->start = p;
    out->pos = p;
    out->last = p + used;
    out->end = p + size;

    return NGX_OK;
}


/*
 * One timer serves all slots, for they are in the order of their deadlines.
 * It is left to run when replies come and looks again when it fires.
 */

static void
ngx_convotic_redis_arm(ngx_convotic_redis_t *redis)
{
    ngx_queue_t                *q;
    ngx_msec_int_t              left;
    ngx_convotic_redis_slot_t  *slot;

    if (redis->timer.timer_set || ngx_queue_empty(&redis->sent)) {
        return;
    }

    q = ngx_queue_head(&redis->sent);
    slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

    left = (ngx_msec_int_t) (slot->deadline - ngx_current_msec);

    ngx_add_timer(&redis->timer, left > 0 ? (ngx_msec_t) left : 1);
}


static void
ngx_convotic_redis_flush_handler(ngx_event_t *ev)
{
    ssize_t                n;
    ngx_buf_t             *out;
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    redis = ev->data;
    c = redis->connection;
    out = &redis->out;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic redis flush: %z", out->last - out->pos);

    if (c == NULL || !c->write->ready) {
        return;
    }

    while (out->pos < out->last) {

        n = c->send(c, out->pos, out->last - out->pos);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR) {
            ngx_convotic_redis_lost(redis, "cannot write");
            return;
        }

        out->pos += n;
    }

    if (out->pos == out->last) {
        out->pos = out->start;
        out->last = out->start;

        if (out->end - out->start > NGX_CONVOTIC_REDIS_OUT_KEEP) {
            ngx_free(out->start);
            ngx_memzero(out, sizeof(ngx_buf_t));
        }
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_convotic_redis_fail(redis, "cannot write");
    }
}


static void
ngx_convotic_redis_write_handler(ngx_event_t *wev)
{
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    c = wev->data;
    redis = c->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, wev->log, 0,
                   "convotic redis write handler");

    if (redis->state == NGX_CONVOTIC_REDIS_CONNECTING) {

        if (ngx_convotic_peer_test(c) != NGX_OK) {
            ngx_convotic_redis_unreachable(redis);
            return;
        }

        ngx_convotic_redis_greet(redis);
        return;
    }

    ngx_convotic_redis_flush_handler(&redis->flush);
}


static void
ngx_convotic_redis_read_handler(ngx_event_t *rev)
{
    u_char                 buf[NGX_CONVOTIC_REDIS_READ];
    ssize_t                n;
    ngx_uint_t             i;
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    c = rev->data;
    redis = c->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, rev->log, 0,
                   "convotic redis read handler");

    if (c->close) {

        /* the worker exits; requests that still run may need the replies */

        c->close = 0;

        if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
            redis->events->exiting(redis->data);

            if (redis->connection == NULL) {
                return;
            }

        } else if (ngx_queue_empty(&redis->sent)
                   && ngx_queue_empty(&redis->pending))
        {
            ngx_convotic_redis_close(redis);
            redis->state = NGX_CONVOTIC_REDIS_IDLE;
            return;
        }
    }

    if (redis->state == NGX_CONVOTIC_REDIS_CONNECTING) {

        if (ngx_convotic_peer_test(c) != NGX_OK) {
            ngx_convotic_redis_unreachable(redis);
        }

        return;
    }

    for (i = 0; i < NGX_CONVOTIC_REDIS_READS; i++) {

        n = c->recv(c, buf, sizeof(buf));

        if (n == NGX_AGAIN) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                ngx_convotic_redis_fail(redis, "cannot read");
            }

            return;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_convotic_redis_lost(redis, "it closed the connection");
            return;
        }

        if (ngx_convotic_redis_feed(redis, buf, n) != NGX_OK) {
            return;
        }

        /* it was all that there is */

        if (!rev->ready) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                ngx_convotic_redis_fail(redis, "cannot read");
            }

            return;
        }
    }

    ngx_post_event(rev, &ngx_posted_next_events);
}


/* NGX_DONE: the connection is gone */

static ngx_int_t
ngx_convotic_redis_feed(ngx_convotic_redis_t *redis, u_char *p, size_t len)
{
    size_t  n;

    while (len) {
        n = ngx_min(len, NGX_CONVOTIC_RESP_FEED);

        if (ngx_convotic_resp_feed(redis->reader, p, n) != NGX_OK) {
            ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
            return NGX_DONE;
        }

        if (ngx_convotic_redis_replies(redis) != NGX_OK) {
            return NGX_DONE;
        }

        p += n;
        len -= n;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_redis_replies(ngx_convotic_redis_t *redis)
{
    ngx_int_t             rc;
    ngx_uint_t            number;
    ngx_convotic_resp_t  *reply;

    number = redis->number;

    for ( ;; ) {

        rc = ngx_convotic_resp_next(redis->reader, &reply);

        if (rc == NGX_AGAIN) {

            /* an exiting worker does not wait for a timer without a reason */

            if (ngx_exiting && redis->timer.timer_set
                && ngx_queue_empty(&redis->sent)
                && ngx_queue_empty(&redis->pending))
            {
                ngx_del_timer(&redis->timer);
            }

            return NGX_OK;
        }

        if (rc == NGX_ERROR) {
            ngx_convotic_redis_fail(redis, "it does not speak RESP2");
            return NGX_DONE;
        }

        if (rc == NGX_ABORT) {
            ngx_convotic_redis_fail(redis, ngx_convotic_redis_no_memory);
            return NGX_DONE;
        }

        if (ngx_convotic_redis_is_message(redis, reply)) {
            redis->events->message(redis->data, reply);
            rc = NGX_OK;

        } else {
            rc = ngx_convotic_redis_reply(redis, reply);
        }

        ngx_convotic_resp_free(reply);

        if (rc != NGX_OK) {
            ngx_convotic_redis_fail(redis, "it sent what nobody asked for");
            return NGX_DONE;
        }

        /* what was told may have led to the end of the connection */

        if (redis->connection == NULL || redis->number != number) {
            return NGX_DONE;
        }
    }
}


/* what a server sends in subscribed mode and is no reply to a command */

static ngx_uint_t
ngx_convotic_redis_is_message(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply)
{
    ngx_str_t            *name;
    ngx_convotic_resp_t  *kind;

    if (redis->conf.role != NGX_CONVOTIC_REDIS_TRACKING
        || redis->state != NGX_CONVOTIC_REDIS_READY
        || reply->type != NGX_CONVOTIC_RESP_ARRAY)
    {
        return 0;
    }

    if (reply->oversize) {
        return 1;
    }

    if (reply->nelts == 0) {
        return 0;
    }

    kind = reply->elts[0];
    name = &kind->str;

    if (kind->type != NGX_CONVOTIC_RESP_STRING) {
        return 0;
    }

    return (name->len == 7 && ngx_memcmp(name->data, "message", 7) == 0)
           || (name->len == 8
               && (ngx_memcmp(name->data, "pmessage", 8) == 0
                   || ngx_memcmp(name->data, "smessage", 8) == 0));
}


/* NGX_ERROR: nobody waits for it */

static ngx_int_t
ngx_convotic_redis_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply)
{
    ngx_queue_t                *q;
    ngx_convotic_redis_slot_t  *slot;

    if (ngx_queue_empty(&redis->sent)) {

        if (reply->type == NGX_CONVOTIC_RESP_ERROR) {
            ngx_convotic_redis_log_reply(redis, reply);
        }

        return NGX_ERROR;
    }

    q = ngx_queue_head(&redis->sent);
    ngx_queue_remove(q);

    slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

    ngx_convotic_redis_deliver(redis, slot, reply);
    ngx_free(slot);

    return NGX_OK;
}


static void
ngx_convotic_redis_deliver(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply)
{
    ngx_uint_t  readonly;

    if (slot->type == NGX_CONVOTIC_REDIS_SLOT_OWN) {
        ngx_convotic_redis_judge(redis, slot->step, reply);
        return;
    }

    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
        ngx_convotic_redis_deliver_tracking(redis, slot, reply);
        return;
    }

    ngx_convotic_zone_time(redis->zone,
                           (redis->conf.role == NGX_CONVOTIC_REDIS_KEYS)
                           ? NGX_CONVOTIC_TIME_KEYS
                           : NGX_CONVOTIC_TIME_BODIES,
                           ngx_current_msec
                           - (slot->deadline - redis->conf.timeout));

    readonly = 0;

    if (reply->type == NGX_CONVOTIC_RESP_ERROR) {

        ngx_convotic_redis_unwrap(&reply->str);
        ngx_convotic_redis_code(&reply->str, redis->said);

        /* it is no error of the server's to have been restarted */

        if (ngx_strcmp(redis->said, "NOSCRIPT") != 0) {
            ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_ERRORS);
            ngx_convotic_redis_log_reply(redis, reply);
        }

        /* a failover: the master is elsewhere, or will be here */

        readonly = (ngx_strncmp(reply->str.data, "READONLY", 8) == 0);
        reply = NULL;
    }

    if (slot->handler) {
        slot->handler(slot->data, reply);
    }

    redis->said[0] = '\0';

    if (readonly && redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "it is not a master");
    }
}


/* an error may say that the server cannot do this, or that it must not */

static void
ngx_convotic_redis_deliver_tracking(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply)
{
    if (slot->handler) {
        slot->handler(slot->data, reply);

    } else if (reply->type == NGX_CONVOTIC_RESP_ERROR) {
        ngx_convotic_redis_log_reply(redis, reply);
    }
}


static void
ngx_convotic_redis_timer_handler(ngx_event_t *ev)
{
    ngx_uint_t                  number;
    ngx_queue_t                *q;
    ngx_convotic_redis_t       *redis;
    ngx_convotic_redis_slot_t  *slot;

    redis = ev->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic redis timer, state %d", (int) redis->state);

    if (redis->state != NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "it did not greet in time");
        return;
    }

    if (ngx_queue_empty(&redis->sent)) {
        return;
    }

    /* a worker that was busy may be the one that is late */

    number = redis->number;

#if (NGX_HAVE_EPOLLRDHUP)

    /* not told yet by the event loop, the reply may have come all the same */

    redis->connection->read->available = -1;

#endif

    ngx_convotic_redis_read_handler(redis->connection->read);

    if (redis->number != number || redis->state != NGX_CONVOTIC_REDIS_READY
        || ngx_queue_empty(&redis->sent))
    {
        return;
    }

    q = ngx_queue_head(&redis->sent);
    slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

    if ((ngx_msec_int_t) (slot->deadline - ngx_current_msec) > 0) {
        ngx_convotic_redis_arm(redis);
        return;
    }

    ngx_convotic_redis_fail(redis, "it did not answer in time");
}


static void
ngx_convotic_redis_retry_handler(ngx_event_t *ev)
{
    ngx_convotic_redis_t  *redis = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0, "convotic redis retry");

    if (ngx_exiting) {
        redis->state = NGX_CONVOTIC_REDIS_IDLE;
        return;
    }

    ngx_convotic_redis_connect(redis);
}


static void
ngx_convotic_redis_check_handler(ngx_event_t *ev)
{
    ngx_convotic_redis_t  *redis = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0, "convotic redis check");

    if (ngx_exiting || redis->state != NGX_CONVOTIC_REDIS_READY) {
        return;
    }

    ngx_convotic_redis_say(redis, NGX_CONVOTIC_GREETING_ROLE);

    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_add_timer(ev, NGX_CONVOTIC_REDIS_CHECK);
    }
}


/*
 * The end of a connection that worked is no failure yet: a server closes idle
 * clients and restarts.  What was asked on it is asked once more, for every
 * command that is sent from here may be sent twice.
 */

static void
ngx_convotic_redis_lost(ngx_convotic_redis_t *redis, const char *what)
{
    ngx_queue_t                *q, again;
    ngx_convotic_redis_slot_t  *slot;

    if (!ngx_convotic_redis_kept_up(redis)) {
        ngx_convotic_redis_fail(redis, what);
        return;
    }

    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
        ngx_convotic_redis_lost_tracking(redis, what);
        return;
    }

    ngx_log_error(NGX_LOG_INFO, &redis->log, 0,
                  "connection to Redis lost: %s", what);

    ngx_convotic_redis_close(redis);

    ngx_queue_init(&again);

    while (!ngx_queue_empty(&redis->sent)) {
        q = ngx_queue_head(&redis->sent);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (slot->handler == NULL) {
            ngx_free(slot);

        } else if (slot->attempts > 1) {
            ngx_queue_insert_tail(&again, q);

        } else {
            ngx_queue_insert_tail(&redis->pending, q);
        }
    }

    ngx_convotic_redis_connect(redis);

    ngx_convotic_redis_abandon(&again);
}


/* what was sent made sense on that connection only: nothing is sent again */

static void
ngx_convotic_redis_lost_tracking(ngx_convotic_redis_t *redis,
    const char *what)
{
    ngx_convotic_redis_log_failure(redis, what);
    ngx_convotic_redis_close(redis);

    redis->state = NGX_CONVOTIC_REDIS_WAITING;

    ngx_convotic_redis_tell(redis);

    if (redis->state != NGX_CONVOTIC_REDIS_WAITING) {
        return;
    }

    if (ngx_exiting) {
        redis->state = NGX_CONVOTIC_REDIS_IDLE;
        return;
    }

    ngx_convotic_redis_connect(redis);
}


/* one that greets and then fails has not come back */

static ngx_uint_t
ngx_convotic_redis_kept_up(ngx_convotic_redis_t *redis)
{
    return redis->state == NGX_CONVOTIC_REDIS_READY
           && ngx_current_msec - redis->ready_since
              >= NGX_CONVOTIC_REDIS_LIFE_MIN;
}


/*
 * From here until the next greeting has succeeded, commands are refused at
 * once: nobody waits for a server that is known to be away.
 */

static void
ngx_convotic_redis_fail(ngx_convotic_redis_t *redis, const char *what)
{
    ngx_msec_t  delay;

    ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_FAILURES);
    ngx_convotic_redis_log_failure(redis, what);

    if (ngx_convotic_redis_kept_up(redis)) {
        redis->retries = 0;
    }

    delay = redis->retries
            ? NGX_CONVOTIC_REDIS_RETRY
              + ngx_random() % NGX_CONVOTIC_REDIS_RETRY_JITTER
            : NGX_CONVOTIC_REDIS_RETRY_FIRST
              + ngx_random() % NGX_CONVOTIC_REDIS_RETRY_FIRST;

    ngx_convotic_redis_close(redis);

    redis->failures++;
    ngx_convotic_redis_away(redis, 1);

    redis->retries++;
    ngx_convotic_peer_next(redis->peer);
    redis->state = NGX_CONVOTIC_REDIS_WAITING;
    redis->log.action = NULL;

    ngx_add_timer(&redis->retry, delay);

    ngx_convotic_redis_tell(redis);
}


static void
ngx_convotic_redis_log_failure(ngx_convotic_redis_t *redis, const char *what)
{
    ngx_uint_t  level;

    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {

        /* a server that is away is told of by the other connection */

        level = (redis->state == NGX_CONVOTIC_REDIS_READY) ? NGX_LOG_NOTICE
                                                           : NGX_LOG_INFO;

        ngx_log_error(level, &redis->log, 0,
                      "tracking connection to Redis lost: %s", what);
        return;
    }

    if (redis->failures == 0) {
        ngx_log_error(NGX_LOG_ERR, &redis->log, 0, "Redis is away: %s", what);

    } else {
        ngx_log_error(NGX_LOG_INFO, &redis->log, 0,
                      "Redis is still away: %s", what);
    }
}


/* a handler may stop the connection, which says nothing of it any more then */

static void
ngx_convotic_redis_tell(ngx_convotic_redis_t *redis)
{
    ngx_queue_t  waiting;

    ngx_queue_init(&waiting);

    if (!ngx_queue_empty(&redis->sent)) {
        ngx_queue_add(&waiting, &redis->sent);
        ngx_queue_init(&redis->sent);
    }

    if (!ngx_queue_empty(&redis->pending)) {
        ngx_queue_add(&waiting, &redis->pending);
        ngx_queue_init(&redis->pending);
    }

    redis->posted = 0;

    ngx_convotic_redis_abandon(&waiting);

    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING
        && redis->state == NGX_CONVOTIC_REDIS_WAITING)
    {
        redis->events->lost(redis->data);
    }
}


/* leaves the slots where they are */

static void
ngx_convotic_redis_close(ngx_convotic_redis_t *redis)
{
    ngx_convotic_peer_cancel(redis->peer);
    ngx_convotic_redis_disconnect(redis);

    if (redis->flush.posted) {
        ngx_delete_posted_event(&redis->flush);
    }

    if (redis->timer.timer_set) {
        ngx_del_timer(&redis->timer);
    }

    if (redis->check.timer_set) {
        ngx_del_timer(&redis->check);
    }

    redis->out.pos = redis->out.start;
    redis->out.last = redis->out.start;
}


static void
ngx_convotic_redis_disconnect(ngx_convotic_redis_t *redis)
{
    if (redis->connection) {
        ngx_close_connection(redis->connection);
        redis->connection = NULL;
    }

    if (redis->pool) {
        ngx_destroy_pool(redis->pool);
        redis->pool = NULL;
    }

    if (redis->reader) {
        ngx_convotic_resp_destroy(redis->reader);
        redis->reader = NULL;
    }
}


/*
 * Tells everybody in the queue.  A handler may cancel slots that are still
 * in it, but none can be added: it is not one of the connection's.
 */

static void
ngx_convotic_redis_abandon(ngx_queue_t *queue)
{
    ngx_queue_t                *q;
    ngx_convotic_redis_slot_t  *slot;

    while (!ngx_queue_empty(queue)) {
        q = ngx_queue_head(queue);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (slot->handler) {
            slot->handler(slot->data, NULL);
        }

        ngx_free(slot);
    }
}


/* whether a part of the password is in the text */

static ngx_uint_t
ngx_convotic_redis_repeats(ngx_str_t *text, ngx_str_t *password)
{
    size_t  i, len;

    len = ngx_min(password->len, NGX_CONVOTIC_REDIS_SECRET);

    for (i = 0; i + len <= text->len; i++) {
        if (ngx_memcmp(text->data + i, password->data, len) == 0) {
            return 1;
        }
    }

    return 0;
}


static void
ngx_convotic_redis_log_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply)
{
    u_char      code[NGX_CONVOTIC_REDIS_CODE_LEN];
    size_t      i;
    ngx_str_t   text;
    ngx_uint_t  level;

    level = (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) ? NGX_LOG_NOTICE
                                                              : NGX_LOG_ERR;

    if (reply->type != NGX_CONVOTIC_RESP_ERROR) {
        ngx_convotic_redis_log_code(redis, "TYPE",
                                    "it answered with an unexpected type",
                                    level);
        return;
    }

    text = reply->str;
    text.len = ngx_min(text.len, NGX_CONVOTIC_REDIS_TEXT_MAX);

    for (i = 0; i < text.len; i++) {
        if (text.data[i] < ' ' || text.data[i] > '~') {
            text.data[i] = '?';
        }
    }

    text.data[text.len] = '\0';

    /* a server that does not know AUTH repeats what it was given */

    if (redis->conf.url.password.len
        && ngx_convotic_redis_repeats(&text, &redis->conf.url.password))
    {
        ngx_convotic_redis_log_code(redis, "AUTH",
                                    "it does not know the command AUTH",
                                    level);
        return;
    }

    ngx_convotic_redis_code(&text, code);
    ngx_convotic_redis_log_code(redis, (char *) code, (char *) text.data,
                                level);
}


/*
 * Redis 6 tells what a script met after a text of its own:
 * "ERR Error running script (...): @user_script:1: @user_script: 1: -OOM ..."
 */

static void
ngx_convotic_redis_unwrap(ngx_str_t *text)
{
    u_char  *p, *last;

    static const ngx_str_t  prefix = ngx_string("ERR Error running script");
    static const ngx_str_t  place = ngx_string("@user_script:");

    if (text->len < prefix.len
        || ngx_strncmp(text->data, prefix.data, prefix.len) != 0)
    {
        return;
    }

    p = text->data;
    last = text->data + text->len;

    for ( ;; ) {
        p = ngx_strlcasestrn(p, last, place.data, place.len - 1);
        if (p == NULL) {
            return;
        }

        p += place.len;

        while (p < last && (*p == ' ' || *p == ':' || *p == '-'
                            || (*p >= '0' && *p <= '9')))
        {
            p++;
        }

        text->data = p;
        text->len = last - p;
    }
}


/* an error of Redis's begins with a word that tells its kind */

static void
ngx_convotic_redis_code(ngx_str_t *text, u_char *code)
{
    size_t  i;

    for (i = 0; i < text->len && i < NGX_CONVOTIC_REDIS_CODE_LEN - 1; i++) {
        if (text->data[i] == ' ') {
            break;
        }

        code[i] = text->data[i];
    }

    code[i] = '\0';
}


/* the first of a kind, and once a minute: never once a request */

static void
ngx_convotic_redis_log_code(ngx_convotic_redis_t *redis, const char *code,
    const char *text, ngx_uint_t level)
{
    time_t                         now;
    ngx_uint_t                     i;
    ngx_convotic_redis_logged_t   *logged, *oldest;

    now = ngx_time();
    oldest = &redis->logged[0];

    for (i = 0; i < NGX_CONVOTIC_REDIS_KINDS; i++) {
        logged = &redis->logged[i];

        if (ngx_strcmp(logged->code, code) == 0) {

            if (now - logged->time < NGX_CONVOTIC_REDIS_LOG_INTERVAL) {
                return;
            }

            oldest = logged;
            break;
        }

        if (logged->time < oldest->time) {
            oldest = logged;
        }
    }

    (void) ngx_cpystrn(oldest->code, (u_char *) code,
                       NGX_CONVOTIC_REDIS_CODE_LEN);
    oldest->time = now;

    ngx_log_error(level, &redis->log, 0, "Redis cannot say: %s", text);
}


/*
 * count is one of NGX_CONVOTIC_COUNT_KEYS_..., also for the bodies' server;
 * the owner of a TRACKING connection counts for itself.
 */

static void
ngx_convotic_redis_count(ngx_convotic_redis_t *redis, ngx_uint_t count)
{
    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
        return;
    }

    if (redis->conf.role == NGX_CONVOTIC_REDIS_BODIES) {
        count += NGX_CONVOTIC_COUNT_BODIES_COMMANDS
                 - NGX_CONVOTIC_COUNT_KEYS_COMMANDS;
    }

    ngx_convotic_zone_count(redis->zone, count);
}


static void
ngx_convotic_redis_away(ngx_convotic_redis_t *redis, ngx_uint_t away)
{
    if (redis->conf.role == NGX_CONVOTIC_REDIS_TRACKING) {
        return;
    }

    ngx_convotic_zone_gauge(redis->zone,
                            (redis->conf.role == NGX_CONVOTIC_REDIS_KEYS)
                            ? NGX_CONVOTIC_GAUGE_KEYS_AWAY
                            : NGX_CONVOTIC_GAUGE_BODIES_AWAY,
                            away);
}


static u_char *
ngx_convotic_redis_log_handler(ngx_log_t *log, u_char *buf, size_t len)
{
    u_char                *p;
    ngx_convotic_redis_t  *redis = log->data;

    p = buf;

    if (log->action) {
        p = ngx_snprintf(p, len, " while %s", log->action);
        len -= p - buf;
    }

    return ngx_snprintf(p, len, ", redis: \"%V\"",
                        ngx_convotic_peer_name(redis->peer));
}
