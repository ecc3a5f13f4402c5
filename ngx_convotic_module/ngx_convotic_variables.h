
/*
 * The variables.
 */


#ifndef _NGX_CONVOTIC_VARIABLES_H_INCLUDED_
#define _NGX_CONVOTIC_VARIABLES_H_INCLUDED_


#include "ngx_convotic_conf.h"


ngx_int_t ngx_convotic_variables_add(ngx_conf_t *cf);


#endif /* _NGX_CONVOTIC_VARIABLES_H_INCLUDED_ */
