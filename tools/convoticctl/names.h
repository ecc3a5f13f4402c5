
/*
 * Names of Redis keys: found by SCAN, and asked about in pipelines.
 */


#ifndef _CTL_NAMES_H_INCLUDED_
#define _CTL_NAMES_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>

#include <hiredis.h>

#include "conn.h"
#include "text.h"


/* all zeros: none */

typedef struct {
    text_t  *elts;
    size_t   nelts;
    size_t   nalloc;
} names_t;


/*
 * data is the caller's; the reply is one of any type, an error too, or NULL
 * for a name with a NUL in it, which is not asked; names_read() frees it.
 */
typedef void (*names_visit_pt)(void *data, const text_t *name,
    const redisReply *reply);


void names_push(names_t *names, const char *data, size_t len);

/*
 * All names that begin with the prefix and kind, sorted, each once; what was
 * in names is lost.  false: none, c->error says why.
 */
bool names_scan(conn_t *c, const char *prefix, const char *kind,
    names_t *names);

/*
 * One command per name, put at argv[1]; argv ends with a NULL.  false: the
 * connection is lost, c->error says why, and not all were visited.
 */
bool names_read(conn_t *c, const names_t *names, const char **argv,
    names_visit_pt visit, void *data);

void names_free(names_t *names);


#endif /* _CTL_NAMES_H_INCLUDED_ */
