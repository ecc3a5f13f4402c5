
/*
 * The connection of a node that learns what has changed in Redis.
 */


#ifndef _NGX_CONVOTIC_TRACKING_H_INCLUDED_
#define _NGX_CONVOTIC_TRACKING_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


/* NULL after logging why, or for want of memory; lives as long as the cycle */
ngx_convotic_tracking_t *ngx_convotic_tracking_create(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);

/* for a worker */
void ngx_convotic_tracking_start(ngx_convotic_tracking_t *tracking,
    ngx_cycle_t *cycle);
void ngx_convotic_tracking_stop(ngx_convotic_tracking_t *tracking);


#endif /* _NGX_CONVOTIC_TRACKING_H_INCLUDED_ */
