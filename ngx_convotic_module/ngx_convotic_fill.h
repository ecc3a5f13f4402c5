
/*
 * The fill: a background subrequest that asks the upstream.
 */


#ifndef _NGX_CONVOTIC_FILL_H_INCLUDED_
#define _NGX_CONVOTIC_FILL_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* at the end of the configuration; NGX_ERROR: no memory */
ngx_int_t ngx_convotic_fill_init(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);

/* a content handler: starts the fill; the answer is sent when it has ended */
ngx_int_t ngx_convotic_fill_handler(ngx_http_request_t *r);

/* likewise: sends ctx->answer at once, and nobody waits for the fill */
ngx_int_t ngx_convotic_fill_behind_handler(ngx_http_request_t *r);

/* the fill that this request is, or NULL; survives internal redirects */
ngx_convotic_fill_t *ngx_convotic_fill_get(ngx_http_request_t *r);

/* for the filters: the fill's output, which ends here */
ngx_int_t ngx_convotic_fill_header(ngx_convotic_fill_t *fill,
    ngx_http_request_t *sr);
ngx_int_t ngx_convotic_fill_body(ngx_convotic_fill_t *fill,
    ngx_http_request_t *sr, ngx_chain_t *in);


#endif /* _NGX_CONVOTIC_FILL_H_INCLUDED_ */
