
/*
 * Memory that runs out, for tests: the compiler's -include puts this in front
 * of every file of the module in the builds of t/run --fail-malloc and
 * --coverage, and in no other.  Each call below is a site, known by its file
 * and line.  Nothing fails unless the environment says so: see fault.c.
 *
 * What fails is what has an error to return for want of memory; the calls into
 * nginx that allocate on their way are sites like those that only allocate.
 * jansson has its memory from us, so that it fails where we do.
 */


#ifndef _NGX_CONVOTIC_FAULT_H_INCLUDED_
#define _NGX_CONVOTIC_FAULT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <ngx_http.h>

/* read before their functions' names become macros */

#include <hiredis/hiredis.h>
#include <openssl/evp.h>
#include <zlib.h>


typedef struct {
    const char  *file;
    const char  *function;
    const char  *call;
    int          line;
} ngx_convotic_fault_site_t;


/* the sites, in a section of their own: a site's number is its place there */

ngx_uint_t ngx_convotic_fault(const ngx_convotic_fault_site_t **site);


/* inside its own expansion a macro's name is that of the function */

#define NGX_CONVOTIC_FAULT(failure, name, ...)                                \
    ({                                                                        \
        static const ngx_convotic_fault_site_t   site_ = {                    \
            __FILE__, __func__, #name, __LINE__                               \
        };                                                                    \
        static const ngx_convotic_fault_site_t  *place_                       \
            __attribute__((section("convotic_fault"), used)) = &site_;        \
                                                                              \
        ngx_convotic_fault(&place_) ? (__typeof__(name(__VA_ARGS__))) failure \
                                    : name(__VA_ARGS__);                      \
    })


#define ngx_alloc(...)            NGX_CONVOTIC_FAULT(0, ngx_alloc, __VA_ARGS__)
#define ngx_calloc(...)           NGX_CONVOTIC_FAULT(0, ngx_calloc, __VA_ARGS__)
#define ngx_palloc(...)           NGX_CONVOTIC_FAULT(0, ngx_palloc, __VA_ARGS__)
#define ngx_pnalloc(...)                                                      \
    NGX_CONVOTIC_FAULT(0, ngx_pnalloc, __VA_ARGS__)
#define ngx_pcalloc(...)                                                      \
    NGX_CONVOTIC_FAULT(0, ngx_pcalloc, __VA_ARGS__)
#define ngx_pstrdup(...)                                                      \
    NGX_CONVOTIC_FAULT(0, ngx_pstrdup, __VA_ARGS__)
#define ngx_create_pool(...)                                                  \
    NGX_CONVOTIC_FAULT(0, ngx_create_pool, __VA_ARGS__)
#define ngx_create_temp_buf(...)                                              \
    NGX_CONVOTIC_FAULT(0, ngx_create_temp_buf, __VA_ARGS__)
#define ngx_alloc_chain_link(...)                                             \
    NGX_CONVOTIC_FAULT(0, ngx_alloc_chain_link, __VA_ARGS__)

#define ngx_array_create(...)                                                 \
    NGX_CONVOTIC_FAULT(0, ngx_array_create, __VA_ARGS__)
#define ngx_array_init(...)                                                   \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_array_init, __VA_ARGS__)
/* what was allocated with the array cannot fail */

#define ngx_array_push(array)                                                 \
    ((array)->nelts < (array)->nalloc ? ngx_array_push(array)                 \
         : NGX_CONVOTIC_FAULT(0, ngx_array_push, array))

#define ngx_list_init(...)                                                    \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_list_init, __VA_ARGS__)
#define ngx_list_push(...)                                                    \
    NGX_CONVOTIC_FAULT(0, ngx_list_push, __VA_ARGS__)

#define ngx_pool_cleanup_add(...)                                             \
    NGX_CONVOTIC_FAULT(0, ngx_pool_cleanup_add, __VA_ARGS__)
#define ngx_http_cleanup_add(...)                                             \
    NGX_CONVOTIC_FAULT(0, ngx_http_cleanup_add, __VA_ARGS__)

#define ngx_slab_alloc(...)                                                   \
    NGX_CONVOTIC_FAULT(0, ngx_slab_alloc, __VA_ARGS__)
#define ngx_slab_calloc(...)                                                  \
    NGX_CONVOTIC_FAULT(0, ngx_slab_calloc, __VA_ARGS__)
#define ngx_slab_alloc_locked(...)                                            \
    NGX_CONVOTIC_FAULT(0, ngx_slab_alloc_locked, __VA_ARGS__)
#define ngx_slab_calloc_locked(...)                                           \
    NGX_CONVOTIC_FAULT(0, ngx_slab_calloc_locked, __VA_ARGS__)

#define ngx_http_subrequest(...)                                              \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_http_subrequest, __VA_ARGS__)
#define ngx_http_add_variable(...)                                            \
    NGX_CONVOTIC_FAULT(0, ngx_http_add_variable, __VA_ARGS__)
#define ngx_event_connect_peer(...)                                           \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_event_connect_peer, __VA_ARGS__)
#define ngx_resolve_start(...)                                                \
    NGX_CONVOTIC_FAULT(0, ngx_resolve_start, __VA_ARGS__)
#define ngx_resolve_name(...)                                                 \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_resolve_name, __VA_ARGS__)
#define ngx_shared_memory_add(...)                                            \
    NGX_CONVOTIC_FAULT(0, ngx_shared_memory_add, __VA_ARGS__)
#define ngx_conf_full_name(...)                                               \
    NGX_CONVOTIC_FAULT(NGX_ERROR, ngx_conf_full_name, __VA_ARGS__)

#define malloc(...)               NGX_CONVOTIC_FAULT(0, malloc, __VA_ARGS__)
#define deflateInit2_(...)                                                    \
    NGX_CONVOTIC_FAULT(Z_MEM_ERROR, deflateInit2_, __VA_ARGS__)
#define redisReaderCreateWithFunctions(...)                                   \
    NGX_CONVOTIC_FAULT(0, redisReaderCreateWithFunctions, __VA_ARGS__)
#define redisReaderFeed(...)                                                  \
    NGX_CONVOTIC_FAULT(REDIS_ERR, redisReaderFeed, __VA_ARGS__)
#define EVP_MD_CTX_new(...)       NGX_CONVOTIC_FAULT(0, EVP_MD_CTX_new)


#endif /* _NGX_CONVOTIC_FAULT_H_INCLUDED_ */
