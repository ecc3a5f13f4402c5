
/*
 * A cached body: what binds it, what is known of it, and its bytes, in one
 * piece of memory that requests and the first level share.
 */


#ifndef _NGX_CONVOTIC_BODY_H_INCLUDED_
#define _NGX_CONVOTIC_BODY_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digest.h"


/* quoted, 128 bits of the digest */
#define NGX_CONVOTIC_BODY_ETAG_HEX  32
#define NGX_CONVOTIC_BODY_ETAG_LEN  (NGX_CONVOTIC_BODY_ETAG_HEX + 2)

/* beyond the bodies, what an envelope may have: lines and kept headers */
#define NGX_CONVOTIC_BODY_OVERHEAD  16384


/* all strings but etag and gzip_etag point into the envelope */

struct ngx_convotic_body_s {
    ngx_uint_t               refs;
    size_t                   size;           /* bytes of memory */

    ngx_str_t                workspace;
    ngx_str_t                generation;
    ngx_str_t                run_id;
    ngx_str_t                ns;
    ngx_str_t                query;

    ngx_str_t                content;
    ngx_str_t                gzip;           /* empty: there is none */
    ngx_uint_t               plain;          /* nor is one worth it */
    ngx_str_t                etag;           /* quoted */
    ngx_str_t                gzip_etag;
    ngx_convotic_header_t   *headers;
    ngx_uint_t               nheaders;

    ngx_msec_t               fresh;          /* from the time it was made */
    ngx_msec_t               stale;          /* after that */
    ngx_msec_t               age;            /* when it came here */
    ngx_msec_t               since;          /* when it came: the own clock */

    ngx_str_t                envelope;

    /* local.c's */

    ngx_queue_t              queue;
    ngx_convotic_body_t     *next;
    uint32_t                 hash;
    ngx_uint_t               listed;
};


/* what a body is made of; all but the bytes themselves is of one line */

typedef struct {
    ngx_str_t                workspace;
    ngx_str_t                generation;
    ngx_str_t                run_id;
    ngx_str_t                ns;
    ngx_str_t                query;
    ngx_str_t                etag;
    ngx_str_t                content;
    ngx_str_t                gzip;
    ngx_uint_t               plain;
    ngx_convotic_header_t   *headers;
    ngx_uint_t               nheaders;
    ngx_msec_t               age;
    ngx_msec_t               fresh;          /* from now on */
    ngx_msec_t               stale;
} ngx_convotic_body_parts_t;


/* with one reference, the caller's; NULL: no memory, or too many headers */
ngx_convotic_body_t *ngx_convotic_body_create(
    ngx_convotic_body_parts_t *parts, ngx_log_t *log);

/*
 * From an envelope, which is copied.  NGX_DECLINED: of another version, or
 * outdated; NGX_ERROR: malformed; NGX_ABORT: no memory.
 */
ngx_int_t ngx_convotic_body_parse(ngx_str_t *envelope, ngx_log_t *log,
    ngx_convotic_body_t **body);

void ngx_convotic_body_hold(ngx_convotic_body_t *body);
void ngx_convotic_body_release(ngx_convotic_body_t *body);

/* the caller's reference becomes the pool's */
ngx_int_t ngx_convotic_body_give(ngx_convotic_body_t *body,
    ngx_pool_t *pool);

/* whether the request may see it at all, and whether it was not purged */
ngx_uint_t ngx_convotic_body_is_for(ngx_convotic_body_t *body,
    ngx_convotic_ctx_t *ctx);
ngx_uint_t ngx_convotic_body_is_of(ngx_convotic_body_t *body,
    ngx_str_t *generation, ngx_str_t *run_id);

/* ms since it was made */
ngx_msec_t ngx_convotic_body_age(ngx_convotic_body_t *body);

/* seconds that it is fresh for; below 0: so long that it is not */
ngx_int_t ngx_convotic_body_ttl(ngx_convotic_body_t *body);

/*
 * The name, as it is written, of a header that stays with a body; NULL: it
 * does not, or its value is none
 */
ngx_str_t *ngx_convotic_body_kept(ngx_str_t *name, ngx_str_t *value);

/* the strong entity tag of a body, quoted, in the pool */
ngx_int_t ngx_convotic_body_etag(ngx_pool_t *pool,
    ngx_convotic_digest_t *digest, ngx_str_t *content, ngx_str_t *etag);


#endif /* _NGX_CONVOTIC_BODY_H_INCLUDED_ */
