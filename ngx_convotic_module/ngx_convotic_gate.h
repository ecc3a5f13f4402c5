
/*
 * The gate: the checks, one after the other.
 */


#ifndef _NGX_CONVOTIC_GATE_H_INCLUDED_
#define _NGX_CONVOTIC_GATE_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* a handler of the PRECONTENT phase */
ngx_int_t ngx_convotic_gate_handler(ngx_http_request_t *r);


#endif /* _NGX_CONVOTIC_GATE_H_INCLUDED_ */
