
/*
 * The output filters: a fill's output ends here, and the bodies of errors
 * are replaced.
 */


#ifndef _NGX_CONVOTIC_FILTER_H_INCLUDED_
#define _NGX_CONVOTIC_FILTER_H_INCLUDED_


#include "ngx_convotic_conf.h"


/* puts them in front of nginx's own */
void ngx_convotic_filter_init(void);


#endif /* _NGX_CONVOTIC_FILTER_H_INCLUDED_ */
