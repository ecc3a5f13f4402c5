
/*
 * The types that every file shares: the configuration, read-only once nginx
 * has started, and the context of one request.  No functions, no state.
 */


#ifndef _NGX_CONVOTIC_CONF_H_INCLUDED_
#define _NGX_CONVOTIC_CONF_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* a digest in hexadecimal, as Redis keys and entity tags carry it */
#define NGX_CONVOTIC_HEX_LEN         64

#define NGX_CONVOTIC_DIGEST_LEN      32

/* "id" and "workspace" of a key's record */
#define NGX_CONVOTIC_NAME_LEN        128

/* of a generation: below 2^63 */
#define NGX_CONVOTIC_DIGITS_LEN      19
#define NGX_CONVOTIC_RUN_ID_LEN      64

/* what a client is told when Redis cannot say whether its key is valid */
#define NGX_CONVOTIC_RETRY_AFTER     2    /* seconds */

#define NGX_CONVOTIC_ERROR_STATUS_PRESERVE    0
#define NGX_CONVOTIC_ERROR_STATUS_DOCUMENTED  1

#define NGX_CONVOTIC_ARGS_IGNORE     0
#define NGX_CONVOTIC_ARGS_REJECT     1

/* requests per minute that a record or a directive may grant */
#define NGX_CONVOTIC_RATE_MAX        1000000000

#define NGX_CONVOTIC_RATE_LOCAL      0
#define NGX_CONVOTIC_RATE_OPEN       1
#define NGX_CONVOTIC_RATE_CLOSED     2

/* bits */
#define NGX_CONVOTIC_RATE_DOCUMENTED  1
#define NGX_CONVOTIC_RATE_DRAFT       2

#define NGX_CONVOTIC_STATUS_JSON         0
#define NGX_CONVOTIC_STATUS_PROMETHEUS   1


typedef struct ngx_convotic_redis_s       ngx_convotic_redis_t;
typedef struct ngx_convotic_redis_slot_s  ngx_convotic_redis_slot_t;
typedef struct ngx_convotic_digest_s      ngx_convotic_digest_t;
typedef struct ngx_convotic_zone_s        ngx_convotic_zone_t;
typedef struct ngx_convotic_ctx_s         ngx_convotic_ctx_t;
typedef struct ngx_convotic_fill_s        ngx_convotic_fill_t;
typedef struct ngx_convotic_body_s        ngx_convotic_body_t;
typedef struct ngx_convotic_local_s       ngx_convotic_local_t;
typedef struct ngx_convotic_waiters_s     ngx_convotic_waiters_t;
typedef struct ngx_convotic_flight_s      ngx_convotic_flight_t;
typedef struct ngx_convotic_flights_s     ngx_convotic_flights_t;
typedef struct ngx_convotic_tracking_s    ngx_convotic_tracking_t;
typedef struct ngx_convotic_limits_s      ngx_convotic_limits_t;

typedef struct ngx_convotic_cache_name_s   ngx_convotic_cache_name_t;
typedef struct ngx_convotic_fill_judged_s  ngx_convotic_fill_judged_t;
typedef struct ngx_convotic_gzip_s        ngx_convotic_gzip_t;


typedef struct {
    ngx_convotic_redis_t         *keys;      /* key records, generations */
    ngx_convotic_redis_t         *bodies;    /* the same as keys by default */
    ngx_str_t                     prefix;
    ngx_convotic_digest_t        *digest;
    ngx_convotic_gzip_t          *gzip;
    ngx_convotic_local_t         *local;     /* NULL: no first level */
    size_t                        local_size;
    ngx_msec_t                    local_valid;
    ngx_convotic_waiters_t       *waiters;
    ngx_convotic_flights_t       *flights;
    ngx_convotic_tracking_t      *tracking;
    ngx_convotic_limits_t        *limits;
    ngx_convotic_cache_name_t    *names;     /* cache.c's */
    ngx_convotic_fill_judged_t   *judged;    /* fill.c's */
    ngx_array_t                   namespaces;    /* of ngx_str_t, defaults */
    ngx_convotic_zone_t          *zone;      /* NULL: nothing is on */
    size_t                        zone_size;
    ngx_uint_t                    enabled;   /* locations with "convotic on" */
    ngx_uint_t                    statuses;  /* with "convotic_status" */
    ngx_uint_t                    host_is_read;  /* $host or $http_host */
    size_t                        reply_max;     /* bytes of a body in Redis */
} ngx_convotic_main_conf_t;


typedef struct {
    ngx_flag_t                    enable;
    ngx_flag_t                    errors;    /* UNSET means: as enable */
    ngx_uint_t                    error_status;

    ngx_array_t                  *platforms;     /* of ngx_str_t */
    ngx_str_t                     platforms_error;   /* lists them */
    ngx_array_t                  *forward_args;  /* of ngx_str_t */
    ngx_uint_t                    unknown_args;
    ngx_uint_t                    limit_default;
    ngx_uint_t                    limit_max;
    ngx_str_t                     limit_text;        /* of the default */
    ngx_str_t                     limit_error;

    ngx_msec_t                    key_valid;
    ngx_msec_t                    key_invalid;
    ngx_msec_t                    key_stale;

    ngx_uint_t                    auth_failures; /* a minute; 0: off */

    ngx_uint_t                    rate;          /* a minute; 0: off */
    ngx_str_t                     rate_text;
    ngx_uint_t                    rate_fallback;
    ngx_uint_t                    rate_share;    /* of "local"; 0: a quarter */
    ngx_uint_t                    rate_headers;
    ngx_flag_t                    rate_dry_run;

    ngx_flag_t                    cache;
    ngx_msec_t                    cache_valid;
    ngx_msec_t                    cache_stale;
    ngx_msec_t                    cache_lock_timeout;
    size_t                        cache_max_size;
    ngx_flag_t                    gzip;
    ngx_int_t                     gzip_level;
    ngx_array_t                  *cache_bypass;
    ngx_str_t                     cache_namespace_set;  /* as configured */
    ngx_str_t                     cache_namespace;      /* in effect */
    ngx_uint_t                    host_in_namespace;
    ngx_uint_t                    uri_in_namespace;
    ngx_uint_t                    try_files;     /* to be kept from running */
    ngx_str_t                     host;      /* Host for the upstream, if any */

    ngx_msec_t                    fill_timeout;
    ngx_uint_t                    status;
} ngx_convotic_loc_conf_t;


/* a header of the upstream's that is kept with the answer */

typedef struct {
    ngx_str_t                     name;
    ngx_str_t                     value;
} ngx_convotic_header_t;


/* when a command was queued, for the question whether its answer is true */

typedef struct {
    ngx_msec_t                    time;
    ngx_atomic_uint_t             epoch;
    ngx_atomic_uint_t             changes;
} ngx_convotic_mark_t;


/* of a key's record, what is needed to serve it */

typedef struct {
    int64_t                       expires;       /* unix seconds; 0: never */
    ngx_uint_t                    rate;          /* a minute; 0: not said */
    u_char                        workspace_digest[NGX_CONVOTIC_DIGEST_LEN];
    uint16_t                      id_len;
    uint16_t                      workspace_len;
    u_char                        id[NGX_CONVOTIC_NAME_LEN];
    u_char                        workspace[NGX_CONVOTIC_NAME_LEN];
} ngx_convotic_record_t;


typedef struct {
    uint16_t                      digits_len;
    uint16_t                      run_id_len;
    u_char                        digits[NGX_CONVOTIC_DIGITS_LEN];
    u_char                        run_id[NGX_CONVOTIC_RUN_ID_LEN];
} ngx_convotic_generation_t;


/*
 * What is about to be sent.  A success is a copy, which the request holds.
 * An error has a message: its body is made when it is sent.
 */

typedef struct {
    ngx_uint_t                    status;
    ngx_convotic_body_t          *copy;
    ngx_array_t                  *headers;       /* of ngx_convotic_header_t */

    const char                   *code;
    ngx_str_t                     message;
    time_t                        retry_after;   /* seconds; 0 is none */
} ngx_convotic_answer_t;


typedef enum {
    NGX_CONVOTIC_CACHE_NONE = 0,     /* the cache was not reached */
    NGX_CONVOTIC_CACHE_LOCAL,        /* a hit of the first level */
    NGX_CONVOTIC_CACHE_HIT,
    NGX_CONVOTIC_CACHE_MISS,
    NGX_CONVOTIC_CACHE_EXPIRED,      /* a stale copy is at hand */
    NGX_CONVOTIC_CACHE_UPDATING,     /* and was served, while it is renewed */
    NGX_CONVOTIC_CACHE_STALE,        /* and was served, for want of another */
    NGX_CONVOTIC_CACHE_BYPASS
} ngx_convotic_cache_status_e;


typedef enum {
    NGX_CONVOTIC_AUTH_UNSURE = 0,    /* Redis cannot say */
    NGX_CONVOTIC_AUTH_DENIED,
    NGX_CONVOTIC_AUTH_VALID
} ngx_convotic_auth_e;


typedef enum {
    NGX_CONVOTIC_GATE_CHECKING = 0,
    NGX_CONVOTIC_GATE_WAITING,       /* for Redis, or for another request */
    NGX_CONVOTIC_GATE_CAME,          /* what it waited for */
    NGX_CONVOTIC_GATE_PASSED,        /* the upstream is to be asked */
    NGX_CONVOTIC_GATE_ANSWERED       /* answer is complete */
} ngx_convotic_gate_e;


/* what a request that waited for another one's fetch was woken with */

typedef enum {
    NGX_CONVOTIC_WOKEN_NOT = 0,
    NGX_CONVOTIC_WOKEN_ENDED,        /* the fetch has: look again */
    NGX_CONVOTIC_WOKEN_FAILED,       /* it has failed; answer says how */
    NGX_CONVOTIC_WOKEN_LATE          /* it is still under way */
} ngx_convotic_woken_e;


typedef struct {
    ngx_event_t                   timer;
    ngx_convotic_flight_t        *flight;        /* NULL: does not wait */
    ngx_convotic_woken_e          woken;         /* until the check begins */
    ngx_uint_t                    late;          /* it will not wait again */
    ngx_uint_t                    turns;         /* how often it was woken */
    ngx_msec_t                    until;         /* it waits; 0: not yet */
    ngx_convotic_body_t          *copy;          /* held; what was fetched */
} ngx_convotic_waiter_t;


/* what a request that waited for a lease was woken with */

typedef enum {
    NGX_CONVOTIC_LIMIT_ADMITTED = 0,
    NGX_CONVOTIC_LIMIT_OVER,
    NGX_CONVOTIC_LIMIT_UNSURE        /* Redis did not answer */
} ngx_convotic_limit_e;


/* what is left to a key, as this node sees it, and until when */

typedef struct {
    ngx_uint_t                    remaining;
    ngx_msec_t                    rest;      /* ms of the window */
} ngx_convotic_allowance_t;


typedef struct {
    ngx_uint_t                    limit;     /* a minute; 0: none applies */
    ngx_convotic_allowance_t      allowance;
    ngx_convotic_limit_e          verdict;
    unsigned                      told:1;        /* in headers */
} ngx_convotic_rate_ctx_t;


/* where the check of the cache is */

typedef enum {
    NGX_CONVOTIC_CACHE_LOOKING = 0,
    NGX_CONVOTIC_CACHE_ASKING,       /* for the generation, and the body */
    NGX_CONVOTIC_CACHE_LEASING,      /* for the right to fetch */
    NGX_CONVOTIC_CACHE_PAUSING,      /* before it asks for that again */
    NGX_CONVOTIC_CACHE_CONFIRMING    /* the generation of a stale copy */
} ngx_convotic_cache_step_e;


/*
 * The cache's part of a request.  The workspace, ns, generation, run_id and
 * the query bind a body to those who may see it.
 */

typedef struct {
    ngx_convotic_cache_status_e   status;
    ngx_convotic_cache_step_e     step;
    ngx_str_t                     key;           /* of the body in Redis */
    ngx_str_t                     lock;          /* of the lease in Redis */
    ngx_str_t                     token;
    ngx_str_t                     ns;
    uint32_t                      hash;          /* for the first level */
    ngx_str_t                     generation;    /* empty: unknown, no store */
    ngx_str_t                     run_id;
    ngx_convotic_mark_t           mark;          /* of the generation */
    ngx_convotic_body_t          *copy;          /* held by the pool */
    ngx_convotic_body_t          *arrived;       /* held; from Redis */
    ngx_event_t                   timer;         /* to ask for a lease again */
    ngx_msec_t                    since;         /* it waits for one */
    ngx_msec_t                    pause;
    ngx_int_t                     ttl;           /* seconds; < 0 when stale */
    const char                   *detail;        /* for Cache-Status */
    ngx_uint_t                    fwd_status;    /* of the upstream; 0: none */
    ngx_uint_t                    waiting;       /* replies */
    unsigned                      known:1;       /* ns, hash are set */
    unsigned                      created:1;     /* generation was asked for */
    unsigned                      malformed:1;   /* generation is */
    unsigned                      asked:1;       /* Redis, for the body */
    unsigned                      offline:1;     /* no generation is known */
    unsigned                      confirmed:1;   /* and is still the same */
    unsigned                      collapsed:1;   /* waited for another */
    unsigned                      leasing:1;     /* a lease was asked for */
    unsigned                      leased:1;      /* it is ours */
    unsigned                      denied:1;      /* it is another node's */
    unsigned                      refresh:1;     /* behind the answer */
    unsigned                      stored:1;
} ngx_convotic_cache_ctx_t;


struct ngx_convotic_ctx_s {
    ngx_http_request_t           *request;
    ngx_convotic_gate_e           state;
    ngx_uint_t                    check;         /* index in the gate's table */

    /* called by a check when what it waited for has come */
    void                        (*resume)(ngx_convotic_ctx_t *ctx);
    ngx_convotic_redis_slot_t    *slots[3];
    ngx_msec_t                    redis_start;
    ngx_msec_t                    redis_time;

    ngx_queue_t                   queue;         /* waiters.c's */
    ngx_convotic_flight_t        *flight;        /* that this one leads */
    ngx_convotic_waiter_t         waiter;

    ngx_convotic_auth_e           verdict;
    ngx_uint_t                    number;        /* of the connection */
    ngx_convotic_mark_t           mark;          /* of the key */
    ngx_convotic_record_t        *fetched;       /* as Redis tells it */
    ngx_str_t                     key_id;
    ngx_str_t                     workspace;

    ngx_convotic_rate_ctx_t       rate;

    ngx_str_t                     platform;      /* empty: all */
    ngx_uint_t                    limit;
    ngx_str_t                     limit_text;    /* without leading zeros */
    ngx_str_t                     query;         /* canonical */

    ngx_convotic_cache_ctx_t      cache;
    ngx_http_handler_pt           content_handler;   /* the location's own */
    ngx_convotic_fill_t          *fill;
    ngx_convotic_answer_t         answer;
    ngx_uint_t                    sent;          /* status of what was sent */

    /* an error of nginx's or of another location, in the filters */

    ngx_str_t                     held;          /* the upstream's own body */
    ngx_str_t                     replacement;   /* of an error's body */
    unsigned                      hashed:1;      /* the digests are set */
    unsigned                      aged:1;        /* record is, and may serve */
    unsigned                      charged:1;     /* address, for a look-up */
    unsigned                      unsure:1;      /* what body it will be */
    unsigned                      holding:1;     /* the header waits for it */
    unsigned                      replaced:1;    /* and it has been sent */

    /* not set to zero from here on */

    u_char                        key_digest[NGX_CONVOTIC_DIGEST_LEN];
    u_char                        key_hash[NGX_CONVOTIC_HEX_LEN];
    ngx_convotic_record_t         record;
    ngx_convotic_generation_t     known;
    u_char                        fetch[NGX_CONVOTIC_DIGEST_LEN];
    u_char                        address[NGX_CONVOTIC_DIGEST_LEN];
    ngx_buf_t                     out;           /* has the replacement */
};


extern ngx_module_t  ngx_convotic_module;


#endif /* _NGX_CONVOTIC_CONF_H_INCLUDED_ */
