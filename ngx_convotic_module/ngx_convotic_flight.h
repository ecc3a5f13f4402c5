
/*
 * One fetch of a thing at a time and node; whoever else wants it waits.
 */


#ifndef _NGX_CONVOTIC_FLIGHT_H_INCLUDED_
#define _NGX_CONVOTIC_FLIGHT_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_body.h"


typedef enum {
    NGX_CONVOTIC_FLIGHT_KEY = 0,         /* a record, from Redis */
    NGX_CONVOTIC_FLIGHT_FILL,            /* an answer, from the upstream */
    NGX_CONVOTIC_FLIGHT_KINDS
} ngx_convotic_flight_kind_e;


typedef enum {
    NGX_CONVOTIC_FLIGHT_ENDED = 0,       /* what came is where it belongs */
    NGX_CONVOTIC_FLIGHT_PASS,            /* it is for the one who asked only */
    NGX_CONVOTIC_FLIGHT_ELSEWHERE,       /* another node is at it */
    NGX_CONVOTIC_FLIGHT_ERROR,           /* an answer for all who wait */
    NGX_CONVOTIC_FLIGHT_FAILED           /* likewise; not to be tried again */
} ngx_convotic_flight_end_e;


/* bytes of a value in the zone's tables of lookups and fetches */
size_t ngx_convotic_flight_value(void);

/* NULL: no memory */
ngx_convotic_flights_t *ngx_convotic_flight_create(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);

/* in a worker */
void ngx_convotic_flight_start(ngx_convotic_flights_t *flights,
    ngx_cycle_t *cycle);

/*
 * name: a digest of the thing.  NGX_OK: this request leads, for at most
 * lifetime ms, and ends the flight; NGX_AGAIN: it waits, for at most timeout
 * ms, and ctx->resume is called with ctx->waiter.woken set; NGX_DECLINED: it
 * goes alone, for nothing that comes is shared; NGX_BUSY: too many wait, or
 * it has waited for too long and not only it; NGX_ERROR: no memory.
 */
ngx_int_t ngx_convotic_flight_join(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t lifetime, ngx_msec_t timeout);

/*
 * For who need not wait.  NGX_OK: this request leads; NGX_BUSY: another one
 * does, or has done so not long ago; NGX_DECLINED: it is not shared.
 */
ngx_int_t ngx_convotic_flight_try(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_kind_e kind,
    const u_char *name, ngx_msec_t lifetime);

/* whether it is the flight of the thing; of a newer one it is not */
ngx_uint_t ngx_convotic_flight_is(ngx_convotic_flight_t *flight,
    const u_char *name);

/* a random number of the leader's attempt, for its lease */
uint64_t ngx_convotic_flight_token(ngx_convotic_flight_t *flight);

/*
 * That of the attempt before, if nobody has ended it: its process has died, or
 * is overdue.  Once, else 0.
 */
uint64_t ngx_convotic_flight_abandoned(ngx_convotic_flight_t *flight);

/* how the last attempt ended: _ERROR, _FAILED, or _ENDED for the rest */
ngx_convotic_flight_end_e ngx_convotic_flight_last(
    ngx_convotic_flights_t *flights, ngx_convotic_flight_kind_e kind,
    const u_char *name);

/*
 * The leader's ctx->flight; copy and answer, which is an error, may be NULL.
 * Whoever waits is woken from an event of its own, later.
 */
void ngx_convotic_flight_end(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx, ngx_convotic_flight_end_e end,
    ngx_convotic_body_t *copy, ngx_convotic_answer_t *answer);

/* the request ends: it neither waits nor leads any more */
void ngx_convotic_flight_leave(ngx_convotic_flights_t *flights,
    ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_FLIGHT_H_INCLUDED_ */
