
/*
 * The context of a request, found again where nginx has dropped it.
 */


#ifndef _NGX_CONVOTIC_CTX_H_INCLUDED_
#define _NGX_CONVOTIC_CTX_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* a zeroed context of the request; NULL: no memory */
ngx_convotic_ctx_t *ngx_convotic_ctx_create(ngx_http_request_t *r);

/* that of the main request, in spite of internal redirects; NULL: none */
ngx_convotic_ctx_t *ngx_convotic_ctx_get(ngx_http_request_t *r);


#endif /* _NGX_CONVOTIC_CTX_H_INCLUDED_ */
