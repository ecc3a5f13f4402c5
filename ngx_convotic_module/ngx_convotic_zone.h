
/*
 * Shared memory: what the workers of a node have in common.
 */


#ifndef _NGX_CONVOTIC_ZONE_H_INCLUDED_
#define _NGX_CONVOTIC_ZONE_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_table.h"


/* the order within a family is that of its rows in status.c */

typedef enum {
    /* requests, by where the answer came from */
    NGX_CONVOTIC_COUNT_LOCAL = 0,
    NGX_CONVOTIC_COUNT_HIT,
    NGX_CONVOTIC_COUNT_MISS,
    NGX_CONVOTIC_COUNT_EXPIRED,
    NGX_CONVOTIC_COUNT_UPDATING,
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

    /* verdicts on keys that were looked up in Redis */
    NGX_CONVOTIC_COUNT_KEY_UNSURE,
    NGX_CONVOTIC_COUNT_KEY_DENIED,
    NGX_CONVOTIC_COUNT_KEY_VALID,
    NGX_CONVOTIC_COUNT_RECORD_MALFORMED,

    /* verdicts from the zone; aged: Redis was away */
    NGX_CONVOTIC_COUNT_KNOWN_DENIED,
    NGX_CONVOTIC_COUNT_KNOWN_VALID,
    NGX_CONVOTIC_COUNT_KNOWN_AGED,

    /* requests that the rate did not simply admit */
    NGX_CONVOTIC_COUNT_RATE_REFUSED,
    NGX_CONVOTIC_COUNT_RATE_DRY_RUN,
    NGX_CONVOTIC_COUNT_RATE_UNVERIFIED,
    NGX_CONVOTIC_COUNT_RATE_UNSURE,

    /* questions for a lease, by the answer */
    NGX_CONVOTIC_COUNT_LEASE_GRANTED,
    NGX_CONVOTIC_COUNT_LEASE_EMPTY,
    NGX_CONVOTIC_COUNT_LEASE_FAILED,

    /* requests with an unknown key, beyond their address's budget */
    NGX_CONVOTIC_COUNT_ADDRESS_REFUSED,

    /* fills, by their end */
    NGX_CONVOTIC_COUNT_FILL_STORED,
    NGX_CONVOTIC_COUNT_FILL_PASSED,
    NGX_CONVOTIC_COUNT_FILL_ERROR,
    NGX_CONVOTIC_COUNT_FILL_FAILED,
    NGX_CONVOTIC_COUNT_FILL_REFUSED,

    /* answers that were served and not stored */
    NGX_CONVOTIC_COUNT_NOT_STORED_LIMIT,
    NGX_CONVOTIC_COUNT_NOT_STORED_UPSTREAM,

    /* fills that nobody waited for, and what was spared */
    NGX_CONVOTIC_COUNT_REFRESHES,
    NGX_CONVOTIC_COUNT_UNCHANGED,

    /* requests that waited for another's fetch, by what came of it */
    NGX_CONVOTIC_COUNT_WAITED_SERVED,
    NGX_CONVOTIC_COUNT_WAITED_LATE,
    NGX_CONVOTIC_COUNT_WAITED_REFUSED,

    /* the first level of bodies */
    NGX_CONVOTIC_COUNT_LOCAL_STORED,
    NGX_CONVOTIC_COUNT_LOCAL_EVICTED,

    /* tracking */
    NGX_CONVOTIC_COUNT_INVALIDATED_KEY,
    NGX_CONVOTIC_COUNT_INVALIDATED_GENERATION,
    NGX_CONVOTIC_COUNT_INVALIDATED_ALL,
    NGX_CONVOTIC_COUNT_INVALIDATED_FOREIGN,
    NGX_CONVOTIC_COUNT_TRACKING_CONFIRMED,
    NGX_CONVOTIC_COUNT_TRACKING_LOST,
    NGX_CONVOTIC_COUNT_RACES,

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


/* of a worker, which sets them; the sum over workers is what is told */

typedef enum {
    NGX_CONVOTIC_GAUGE_LOCAL_BYTES = 0,
    NGX_CONVOTIC_GAUGE_LOCAL_BODIES,
    NGX_CONVOTIC_GAUGE_WAITING,
    NGX_CONVOTIC_GAUGE_KEYS_AWAY,
    NGX_CONVOTIC_GAUGE_BODIES_AWAY,

    NGX_CONVOTIC_GAUGES
} ngx_convotic_gauge_e;


/* upper bounds in ms, and one for all that is above */
#define NGX_CONVOTIC_TIME_BOUNDS                                              \
    { 1, 2, 5, 10, 20, 50, 100, 250, 500, 1000, 2500, 5000, 10000 }
#define NGX_CONVOTIC_TIME_BUCKETS  14


typedef struct {
    ngx_atomic_t     buckets[NGX_CONVOTIC_TIME_BUCKETS];  /* not cumulative */
    ngx_atomic_t     sum;                                 /* ms */
} ngx_convotic_zone_time_t;


/* invalidations seen, by a byte of the digest that they were about */
#define NGX_CONVOTIC_STRIPES  256


/*
 * What is known of the coherence of the entries.  Written with the mutex,
 * read without; times are ngx_current_msec, which all processes share.
 */

typedef struct {
    ngx_atomic_t     epoch;
    ngx_atomic_t     flushed;    /* the epoch that the last flush began */
    ngx_atomic_t     stamp;      /* until then nothing was missed; 0: none */
    ngx_atomic_t     run_id;     /* of the server that is tracked, hashed */
    ngx_atomic_t     stripes[NGX_CONVOTIC_STRIPES];

    /* {pid, nonce} of workers, or 0 */
    ngx_atomic_t     holder;
    ngx_atomic_t     claimed;    /* when the holder was last seen alive */
    ngx_atomic_t     leaving;    /* the holder exits: 1 */
    ngx_atomic_t     successor;
    ngx_atomic_t     successor_claimed;
    ngx_atomic_t     successor_ready;    /* its own connection is confirmed */
    ngx_atomic_t     candidate;  /* when another worker was last there */
    ngx_atomic_t     nonce;
    ngx_atomic_t     unsupported;    /* the server refused: 1 */
} ngx_convotic_coherence_t;


/* tables of what Redis said, of fetches that are under way, and of budgets */

typedef struct {
    ngx_convotic_table_t  keys;
    ngx_convotic_table_t  refusals;
    ngx_convotic_table_t  generations;
    ngx_convotic_table_t  lookups;   /* of keys, in Redis */
    ngx_convotic_table_t  fetches;   /* of bodies, at the upstream */
    ngx_convotic_table_t  leases;    /* what keys may still use */
    ngx_convotic_table_t  addresses; /* that presented unknown keys */
    ngx_atomic_uint_t     serial;    /* of leases */
} ngx_convotic_tables_t;


/* bytes of a value in each of them */

typedef struct {
    size_t           keys;
    size_t           refusals;
    size_t           generations;
    size_t           flights;        /* of lookups and fetches */
    size_t           leases;
    size_t           addresses;
} ngx_convotic_zone_values_t;


struct ngx_convotic_zone_s {
    ngx_convotic_coherence_t  *coherence;
    ngx_convotic_tables_t     *tables;
    uint64_t                   scope;    /* of server, database and prefix */

    /* zone.c's own */
    ngx_convotic_zone_values_t          values;
    struct ngx_convotic_zone_shared_s  *shared;
    ngx_slab_pool_t                    *shpool;
};


/* NULL after logging why */
ngx_convotic_zone_t *ngx_convotic_zone_create(ngx_conf_t *cf, size_t size,
    ngx_convotic_zone_values_t *values);

/* short, and never with a call in between that can log or wait */
void ngx_convotic_zone_lock(ngx_convotic_zone_t *zone);
ngx_uint_t ngx_convotic_zone_trylock(ngx_convotic_zone_t *zone);
void ngx_convotic_zone_unlock(ngx_convotic_zone_t *zone);

/* in a worker, before it sets a gauge */
void ngx_convotic_zone_start(ngx_convotic_zone_t *zone);

/* without a lock */
void ngx_convotic_zone_count(ngx_convotic_zone_t *zone, ngx_uint_t count);
void ngx_convotic_zone_gauge(ngx_convotic_zone_t *zone,
    ngx_convotic_gauge_e gauge, ngx_atomic_uint_t value);
void ngx_convotic_zone_time(ngx_convotic_zone_t *zone,
    ngx_convotic_time_e time, ngx_msec_t elapsed);

/* for a reader of metrics: the sum over all workers */
ngx_atomic_uint_t ngx_convotic_zone_value(ngx_convotic_zone_t *zone,
    ngx_uint_t count);
ngx_atomic_uint_t ngx_convotic_zone_gauge_value(ngx_convotic_zone_t *zone,
    ngx_convotic_gauge_e gauge);
ngx_convotic_zone_time_t *ngx_convotic_zone_times(ngx_convotic_zone_t *zone,
    ngx_convotic_time_e time);


#endif /* _NGX_CONVOTIC_ZONE_H_INCLUDED_ */
