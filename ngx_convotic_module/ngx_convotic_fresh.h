
/*
 * What an upstream's headers say about storing its answer: RFC 9111, for a
 * shared cache.
 */


#ifndef _NGX_CONVOTIC_FRESH_H_INCLUDED_
#define _NGX_CONVOTIC_FRESH_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* no upstream keeps an answer here for longer, nor makes it older */
#define NGX_CONVOTIC_FRESH_MAX  86400    /* s */


typedef struct {
    ngx_uint_t    ignore;        /* NGX_HTTP_UPSTREAM_IGN_... */

    /* seconds; -1: not said */
    time_t        x_accel;
    time_t        s_maxage;
    time_t        max_age;
    time_t        stale_if_error;
    time_t        expires;       /* a point in time */
    time_t        date;          /* likewise */
    time_t        age;

    const char   *refused;       /* why it may not be stored */
    unsigned      must_revalidate:1;
} ngx_convotic_fresh_t;


void ngx_convotic_fresh_init(ngx_convotic_fresh_t *fresh, ngx_uint_t ignore);

/* each header of the answer */
void ngx_convotic_fresh_header(ngx_convotic_fresh_t *fresh, ngx_str_t *name,
    ngx_str_t *value);

/*
 * NGX_OK: fresh for *valid ms and usable for *stale ms more, which are the
 * configured times on entry; NGX_DECLINED: not to be stored, fresh->refused
 * says why.
 */
ngx_int_t ngx_convotic_fresh_times(ngx_convotic_fresh_t *fresh,
    ngx_msec_t *valid, ngx_msec_t *stale);


#endif /* _NGX_CONVOTIC_FRESH_H_INCLUDED_ */
