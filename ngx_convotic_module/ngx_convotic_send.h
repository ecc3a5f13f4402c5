
/*
 * The one way out: what the gateway answers is sent from here.
 */


#ifndef _NGX_CONVOTIC_SEND_H_INCLUDED_
#define _NGX_CONVOTIC_SEND_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* a content handler: sends ctx->answer */
ngx_int_t ngx_convotic_send(ngx_http_request_t *r);

/* a write event handler: the same, and finalizes */
void ngx_convotic_send_handler(ngx_http_request_t *r);


#endif /* _NGX_CONVOTIC_SEND_H_INCLUDED_ */
