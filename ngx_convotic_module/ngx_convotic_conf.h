
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

/* "id" and "workspace" of a key's record */
#define NGX_CONVOTIC_NAME_LEN        128

/* what a client is told when Redis cannot say whether its key is valid */
#define NGX_CONVOTIC_RETRY_AFTER     2    /* seconds */

#define NGX_CONVOTIC_ERROR_STATUS_PRESERVE    0
#define NGX_CONVOTIC_ERROR_STATUS_DOCUMENTED  1

#define NGX_CONVOTIC_ARGS_IGNORE     0
#define NGX_CONVOTIC_ARGS_REJECT     1

#define NGX_CONVOTIC_STATUS_JSON         0
#define NGX_CONVOTIC_STATUS_PROMETHEUS   1


typedef struct ngx_convotic_redis_s       ngx_convotic_redis_t;
typedef struct ngx_convotic_redis_slot_s  ngx_convotic_redis_slot_t;
typedef struct ngx_convotic_digest_s      ngx_convotic_digest_t;
typedef struct ngx_convotic_zone_s        ngx_convotic_zone_t;
typedef struct ngx_convotic_ctx_s         ngx_convotic_ctx_t;
typedef struct ngx_convotic_fill_s        ngx_convotic_fill_t;


typedef struct {
    ngx_convotic_redis_t         *keys;      /* key records, generations */
    ngx_convotic_redis_t         *bodies;    /* the same as keys by default */
    ngx_str_t                     prefix;
    ngx_convotic_digest_t        *digest;
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

    ngx_flag_t                    cache;
    ngx_msec_t                    cache_valid;
    ngx_msec_t                    cache_stale;
    size_t                        cache_max_size;
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


/*
 * What is about to be sent.  An error has a message and no body: the body is
 * made from them when it is sent.
 */

typedef struct {
    ngx_uint_t                    status;
    ngx_str_t                     body;
    ngx_str_t                     etag;          /* quoted */
    time_t                        age;           /* seconds */
    ngx_array_t                  *headers;       /* of ngx_convotic_header_t */

    const char                   *code;
    ngx_str_t                     message;
    time_t                        retry_after;   /* seconds; 0 is none */
} ngx_convotic_answer_t;


typedef enum {
    NGX_CONVOTIC_CACHE_NONE = 0,     /* the cache was not reached */
    NGX_CONVOTIC_CACHE_HIT,
    NGX_CONVOTIC_CACHE_MISS,
    NGX_CONVOTIC_CACHE_EXPIRED,      /* a stale copy is at hand */
    NGX_CONVOTIC_CACHE_STALE,        /* and was served */
    NGX_CONVOTIC_CACHE_BYPASS
} ngx_convotic_cache_status_e;


typedef enum {
    NGX_CONVOTIC_AUTH_UNSURE = 0,    /* Redis cannot say */
    NGX_CONVOTIC_AUTH_DENIED,
    NGX_CONVOTIC_AUTH_VALID
} ngx_convotic_auth_e;


typedef enum {
    NGX_CONVOTIC_GATE_CHECKING = 0,
    NGX_CONVOTIC_GATE_WAITING,       /* for Redis: slots has entries */
    NGX_CONVOTIC_GATE_CAME,          /* what it waited for */
    NGX_CONVOTIC_GATE_PASSED,        /* the upstream is to be asked */
    NGX_CONVOTIC_GATE_ANSWERED       /* answer is complete */
} ngx_convotic_gate_e;


/*
 * The cache's part of a request.  Everything that binds a body to those who
 * may see it stands in binding, the first lines of its envelope.
 */

typedef struct {
    ngx_convotic_cache_status_e   status;
    ngx_str_t                     key;           /* of the body in Redis */
    ngx_str_t                     ns;
    ngx_str_t                     generation;    /* empty: unknown, no store */
    ngx_str_t                     run_id;
    ngx_str_t                     envelope;      /* as read; empty if absent */
    ngx_convotic_answer_t         copy;          /* when HIT or EXPIRED */
    ngx_int_t                     ttl;           /* seconds; < 0 when stale */
    const char                   *detail;        /* for Cache-Status */
    ngx_uint_t                    fwd_status;    /* of the upstream; 0: none */
    ngx_uint_t                    waiting;       /* replies */
    unsigned                      created:1;     /* generation was asked for */
    unsigned                      confirmed:1;   /* and is still the same */
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

    ngx_convotic_auth_e           verdict;
    ngx_uint_t                    number;        /* of the connection */
    u_char                        key_hash[NGX_CONVOTIC_HEX_LEN];
    ngx_str_t                     key_id;
    ngx_str_t                     workspace;

    ngx_str_t                     platform;      /* empty: all */
    ngx_uint_t                    limit;
    ngx_str_t                     query;         /* canonical */

    ngx_convotic_cache_ctx_t      cache;
    ngx_http_handler_pt           content_handler;   /* the location's own */
    ngx_convotic_fill_t          *fill;
    ngx_convotic_answer_t         answer;
    ngx_uint_t                    sent;          /* status of what was sent */

    /* an error of nginx's or of another location, in the filters */

    ngx_str_t                     held;          /* the upstream's own body */
    ngx_str_t                     replacement;   /* of an error's body */
    unsigned                      unsure:1;      /* what body it will be */
    unsigned                      holding:1;     /* the header waits for it */
    unsigned                      replaced:1;    /* and it has been sent */
};


extern ngx_module_t  ngx_convotic_module;


#endif /* _NGX_CONVOTIC_CONF_H_INCLUDED_ */
