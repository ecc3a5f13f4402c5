
/*
 * Metrics.
 */


#ifndef _NGX_CONVOTIC_STATUS_H_INCLUDED_
#define _NGX_CONVOTIC_STATUS_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* a content handler */
ngx_int_t ngx_convotic_status_handler(ngx_http_request_t *r);


#endif /* _NGX_CONVOTIC_STATUS_H_INCLUDED_ */
