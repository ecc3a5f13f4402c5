
/*
 * Cached responses, which a workspace's generation keeps valid.
 */


#ifndef _CTL_CACHE_H_INCLUDED_
#define _CTL_CACHE_H_INCLUDED_


#include "ctl.h"
#include "rc.h"


/* the command "cache purge" */
rc_t cache_purge_handler(const ctl_t *ctl);


#endif /* _CTL_CACHE_H_INCLUDED_ */
