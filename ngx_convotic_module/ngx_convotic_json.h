
/*
 * JSON, both ways: documents are judged, never rewritten, and the bodies of
 * errors are made.  The only file that includes jansson.
 */


#ifndef _NGX_CONVOTIC_JSON_H_INCLUDED_
#define _NGX_CONVOTIC_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * NGX_OK if the body is {"contacts": [...], "total": number, "limit": number},
 * whatever else it has; NGX_DECLINED: it is not, and *err is a clause that
 * says what it lacks; NGX_ERROR: no memory.
 * *limit is its limit, and -1 where that is no whole number.
 */
ngx_int_t ngx_convotic_json_judge(ngx_str_t *body, ngx_int_t *limit,
    const char **err);

/*
 * NGX_OK if the body is {"error": {"code": string, "message": string}};
 * code and message are then copies in the pool.  Else NGX_DECLINED, or
 * NGX_ERROR: no memory.
 */
ngx_int_t ngx_convotic_json_judge_error(ngx_pool_t *pool, ngx_str_t *body,
    ngx_str_t *code, ngx_str_t *message);

/*
 * The body of an error, in the pool.  Cheap where the message is printable
 * ASCII without quotation marks and backslashes.  NGX_ERROR: no memory, or
 * the message is not UTF-8.
 */
ngx_int_t ngx_convotic_json_error(ngx_pool_t *pool, const char *code,
    ngx_str_t *message, ngx_str_t *body);


#endif /* _NGX_CONVOTIC_JSON_H_INCLUDED_ */
