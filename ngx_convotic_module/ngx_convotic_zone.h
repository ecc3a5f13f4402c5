
/*
 * Shared memory: what the workers of a node have in common.
 */


#ifndef _NGX_CONVOTIC_ZONE_H_INCLUDED_
#define _NGX_CONVOTIC_ZONE_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* the order within a family is that of its rows in status.c */

typedef enum {
    /* requests, by where the answer came from */
    NGX_CONVOTIC_COUNT_HIT = 0,
    NGX_CONVOTIC_COUNT_MISS,
    NGX_CONVOTIC_COUNT_EXPIRED,
    NGX_CONVOTIC_COUNT_STALE,
    NGX_CONVOTIC_COUNT_BYPASS,
    NGX_CONVOTIC_COUNT_REFUSED,

    /* errors that the gateway answered with, by code */
    NGX_CONVOTIC_COUNT_UNAUTHORIZED,
    NGX_CONVOTIC_COUNT_INVALID_REQUEST,
    NGX_CONVOTIC_COUNT_NOT_FOUND,
    NGX_CONVOTIC_COUNT_RATE_LIMITED,
    NGX_CONVOTIC_COUNT_INTERNAL_ERROR,

    /* errors of nginx's own, and of other locations, by code */
    NGX_CONVOTIC_COUNT_SHAPED_UNAUTHORIZED,
    NGX_CONVOTIC_COUNT_SHAPED_INVALID_REQUEST,
    NGX_CONVOTIC_COUNT_SHAPED_NOT_FOUND,
    NGX_CONVOTIC_COUNT_SHAPED_RATE_LIMITED,
    NGX_CONVOTIC_COUNT_SHAPED_INTERNAL_ERROR,

    /* verdicts on keys that were looked up */
    NGX_CONVOTIC_COUNT_KEY_UNSURE,
    NGX_CONVOTIC_COUNT_KEY_DENIED,
    NGX_CONVOTIC_COUNT_KEY_VALID,
    NGX_CONVOTIC_COUNT_RECORD_MALFORMED,

    /* fills, by their end */
    NGX_CONVOTIC_COUNT_FILL_STORED,
    NGX_CONVOTIC_COUNT_FILL_PASSED,
    NGX_CONVOTIC_COUNT_FILL_ERROR,
    NGX_CONVOTIC_COUNT_FILL_FAILED,
    NGX_CONVOTIC_COUNT_FILL_REFUSED,

    /* answers that were served and not stored */
    NGX_CONVOTIC_COUNT_NOT_STORED_LIMIT,
    NGX_CONVOTIC_COUNT_NOT_STORED_UPSTREAM,

    /* Redis, the server of keys, then that of bodies */
    NGX_CONVOTIC_COUNT_KEYS_COMMANDS,
    NGX_CONVOTIC_COUNT_KEYS_ERRORS,
    NGX_CONVOTIC_COUNT_KEYS_CONNECTIONS,
    NGX_CONVOTIC_COUNT_KEYS_FAILURES,
    NGX_CONVOTIC_COUNT_KEYS_REFUSED,
    NGX_CONVOTIC_COUNT_BODIES_COMMANDS,
    NGX_CONVOTIC_COUNT_BODIES_ERRORS,
    NGX_CONVOTIC_COUNT_BODIES_CONNECTIONS,
    NGX_CONVOTIC_COUNT_BODIES_FAILURES,
    NGX_CONVOTIC_COUNT_BODIES_REFUSED,

    NGX_CONVOTIC_COUNTS
} ngx_convotic_count_e;


typedef enum {
    NGX_CONVOTIC_TIME_KEYS = 0,          /* from queueing to the reply */
    NGX_CONVOTIC_TIME_BODIES,
    NGX_CONVOTIC_TIME_FILL,

    NGX_CONVOTIC_TIMES
} ngx_convotic_time_e;


/* upper bounds in ms, and one for all that is above */
#define NGX_CONVOTIC_TIME_BOUNDS                                              \
    { 1, 2, 5, 10, 20, 50, 100, 250, 500, 1000, 2500, 5000, 10000 }
#define NGX_CONVOTIC_TIME_BUCKETS  14


typedef struct {
    ngx_atomic_t     buckets[NGX_CONVOTIC_TIME_BUCKETS];  /* not cumulative */
    ngx_atomic_t     sum;                                 /* ms */
} ngx_convotic_zone_time_t;


/* NULL after logging why */
ngx_convotic_zone_t *ngx_convotic_zone_create(ngx_conf_t *cf, size_t size);

/* without a lock; the zone may be NULL in a process that has none */
void ngx_convotic_zone_count(ngx_convotic_zone_t *zone, ngx_uint_t count);
void ngx_convotic_zone_time(ngx_convotic_zone_t *zone,
    ngx_convotic_time_e time, ngx_msec_t elapsed);

/* for a reader of metrics */
ngx_atomic_uint_t ngx_convotic_zone_value(ngx_convotic_zone_t *zone,
    ngx_uint_t count);
ngx_convotic_zone_time_t *ngx_convotic_zone_times(ngx_convotic_zone_t *zone,
    ngx_convotic_time_e time);


#endif /* _NGX_CONVOTIC_ZONE_H_INCLUDED_ */
