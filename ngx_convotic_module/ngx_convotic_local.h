
/*
 * The first level of bodies: a worker's own.
 */


#ifndef _NGX_CONVOTIC_LOCAL_H_INCLUDED_
#define _NGX_CONVOTIC_LOCAL_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_body.h"


/* freed with the pool; NULL: no memory */
ngx_convotic_local_t *ngx_convotic_local_create(ngx_pool_t *pool,
    size_t size);

/*
 * The body of the workspace, namespace and query of ctx, whatever its age and
 * generation; the caller holds it if it keeps it.  NULL: there is none.
 */
ngx_convotic_body_t *ngx_convotic_local_lookup(ngx_convotic_local_t *local,
    ngx_convotic_ctx_t *ctx);

/* takes a reference of its own, in place of what is there for the same */
void ngx_convotic_local_store(ngx_convotic_local_t *local,
    ngx_convotic_zone_t *zone, ngx_convotic_ctx_t *ctx,
    ngx_convotic_body_t *body);

/* of the query and the workspace, for both of the above: ctx->cache.hash */
uint32_t ngx_convotic_local_hash(ngx_convotic_ctx_t *ctx);


#endif /* _NGX_CONVOTIC_LOCAL_H_INCLUDED_ */
