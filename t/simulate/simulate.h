
/*
 * What the files of the simulation share.
 */


#ifndef _SIMULATE_H_INCLUDED_
#define _SIMULATE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "store.h"


/* where kill() of the module's leads */
int simulate_kill(pid_t pid, int signo);

/* a Redis, at a Unix socket */
ngx_int_t simulate_redis_open(const char *path);
void simulate_redis_close(void);

/*
 * Whether it does the same: before and after, the value; argv: the
 * arguments.  NGX_OK without a question if none is open.
 */
ngx_int_t simulate_redis_same(int64_t us, simulate_value_t *before,
    ngx_str_t *argv, ngx_convotic_resp_t *reply, simulate_value_t *after);

/* by its own clock; an exit code */
int simulate_redis_real(const char *path);


#endif /* _SIMULATE_H_INCLUDED_ */
