
/*
 * The mark that tells a key server of ours from an empty or foreign one: the
 * hash "meta" with the field "schema" of 1.
 */


#ifndef _CTL_META_H_INCLUDED_
#define _CTL_META_H_INCLUDED_


#include <hiredis.h>

#include "conn.h"
#include "ctl.h"
#include "rc.h"


#define META_SCHEMA  "1"


/* as conn_read(): the schema, nil, or an error */
redisReply *meta_read(conn_t *c, const char *prefix);

/* says so where the mark is missing or another one */
void meta_warn(conn_t *c, const char *prefix);

/* the command "init" */
rc_t meta_init_handler(const ctl_t *ctl);


#endif /* _CTL_META_H_INCLUDED_ */
