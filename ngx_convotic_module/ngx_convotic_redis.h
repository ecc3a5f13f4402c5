
/*
 * Commands to a Redis server over one pipelined connection per worker, and
 * another one that is told of what changes there.
 */


#ifndef _NGX_CONVOTIC_REDIS_H_INCLUDED_
#define _NGX_CONVOTIC_REDIS_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"
#include "ngx_convotic_url.h"


/*
 * Called once for each command, unless that was cancelled.  A reply of NULL
 * says that Redis cannot say: it is away, did not answer in time, or answered
 * with an error, which has been logged.  The reply is freed after the call.
 */
typedef void (*ngx_convotic_redis_handler_pt)(void *data,
    ngx_convotic_resp_t *reply);


typedef enum {
    NGX_CONVOTIC_REDIS_KEYS,         /* must be a master */
    NGX_CONVOTIC_REDIS_BODIES,
    NGX_CONVOTIC_REDIS_TRACKING      /* a second one, to the server of KEYS */
} ngx_convotic_redis_role_e;


typedef struct {
    ngx_convotic_url_t            url;
    ngx_convotic_redis_role_e     role;
    ngx_msec_t                    connect_timeout;
    ngx_msec_t                    timeout;
} ngx_convotic_redis_conf_t;


/*
 * What the owner of a TRACKING connection is told.  Each of these may stop
 * the connection; none may start it.
 */
typedef struct {
    /* greeted; commands may be sent from here until lost */
    void                        (*ready)(void *data);

    /*
     * An array that begins with "message", "pmessage" or "smessage", or an
     * oversize one; any other matches a command.  Freed after the call.
     */
    void                        (*message)(void *data,
                                           ngx_convotic_resp_t *message);

    /*
     * The connection is gone, or an attempt has failed; all handlers were
     * called before.  The next attempt comes by itself.
     */
    void                        (*lost)(void *data);

    /* the worker exits gracefully; the connection stays until it is stopped */
    void                        (*exiting)(void *data);
} ngx_convotic_redis_events_t;


/*
 * A server, with its name resolved; NULL after logging why.  The object lives
 * as long as the cycle.
 */
ngx_convotic_redis_t *ngx_convotic_redis_create(ngx_conf_t *cf,
    ngx_convotic_redis_conf_t *conf);

/* at the end of the configuration; resolver may be NULL: names stay as read */
void ngx_convotic_redis_configure(ngx_convotic_redis_t *redis,
    ngx_convotic_zone_t *zone, size_t reply_max, ngx_resolver_t *resolver,
    ngx_msec_t resolver_timeout);

/*
 * Another connection to the same server, configured as that one is, with the
 * role TRACKING.  NULL: no memory.
 */
ngx_convotic_redis_t *ngx_convotic_redis_tracking(ngx_conf_t *cf,
    ngx_convotic_redis_t *redis);

/* before the start of a TRACKING connection, in a worker */
void ngx_convotic_redis_listen(ngx_convotic_redis_t *redis,
    const ngx_convotic_redis_events_t *events, void *data);

/*
 * For a worker: connects ahead of the first request; closes at its exit.  A
 * stop calls the handlers of what waits, with NULL, and no events.  It may be
 * called from handlers and events: some handlers are called right after it
 * then, and a start may follow once all have returned.
 */
void ngx_convotic_redis_start(ngx_convotic_redis_t *redis, ngx_cycle_t *cycle);
void ngx_convotic_redis_stop(ngx_convotic_redis_t *redis);

/*
 * Queues a command; what is queued in one turn of the event loop leaves in
 * one send.  handler is never called before the return.  NULL, with no call
 * to follow: the server is known to be away, or there is no memory.
 *
 * On a TRACKING connection, NULL unless that is ready; an error is a reply as
 * any other there, and is not logged.
 */
ngx_convotic_redis_slot_t *ngx_convotic_redis_send(ngx_convotic_redis_t *redis,
    ngx_uint_t argc, ngx_str_t *argv, ngx_convotic_redis_handler_pt handler,
    void *data);

/*
 * What has been queued is sent with the next turn of the event loop; by this
 * at once, as much as the kernel takes.  No handler is called.
 */
void ngx_convotic_redis_hurry(ngx_convotic_redis_t *redis);

/*
 * Queues a command whose reply nobody waits for; its failure is logged.
 * NGX_ERROR: it was not queued.
 */
ngx_int_t ngx_convotic_redis_post(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv);

/* it must not be sent again, for it would be refused by its own first time */
void ngx_convotic_redis_once(ngx_convotic_redis_slot_t *slot);

/* the handler will not be called; the reply is read and dropped */
void ngx_convotic_redis_cancel(ngx_convotic_redis_slot_t *slot);

/* its replies are not the ones that were asked for: the connection is closed */
void ngx_convotic_redis_distrust(ngx_convotic_redis_t *redis);

/* logs what is wrong with the server, once a minute for one code */
void ngx_convotic_redis_complain(ngx_convotic_redis_t *redis,
    const char *code, const char *text);

ngx_uint_t ngx_convotic_redis_is_ready(ngx_convotic_redis_t *redis);

/* for this worker: what is sent is refused at once */
ngx_uint_t ngx_convotic_redis_is_away(ngx_convotic_redis_t *redis);

/* address and database, as configured */
ngx_str_t *ngx_convotic_redis_name(ngx_convotic_redis_t *redis);

/*
 * For a handler whose reply is NULL: whether Redis is there, and answered with
 * an error of that code.
 */
ngx_uint_t ngx_convotic_redis_said(ngx_convotic_redis_t *redis,
    const char *code);

/* of the connection that a handler is called from: each has another one */
ngx_uint_t ngx_convotic_redis_number(ngx_convotic_redis_t *redis);

/*
 * The run_id that the server told on the current connection, in memory that
 * the next connection overwrites; empty if it did not tell.
 */
ngx_str_t *ngx_convotic_redis_run_id(ngx_convotic_redis_t *redis);


#endif /* _NGX_CONVOTIC_REDIS_H_INCLUDED_ */
