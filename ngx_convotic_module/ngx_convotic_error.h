
/*
 * Statuses, codes and messages of errors, and the documented body.
 */


#ifndef _NGX_CONVOTIC_ERROR_H_INCLUDED_
#define _NGX_CONVOTIC_ERROR_H_INCLUDED_


#include "ngx_convotic_conf.h"


/*
 * 0 to 4: UNAUTHORIZED, INVALID_REQUEST, NOT_FOUND, RATE_LIMITED and
 * INTERNAL_ERROR; code is one that this file has given
 */
ngx_uint_t ngx_convotic_error_index(const char *code);

/* the status that goes to the client, by "convotic_error_status" */
ngx_uint_t ngx_convotic_error_status(ngx_convotic_loc_conf_t *conf,
    ngx_uint_t status, const char *code);

/* the documented body with our own text for the status; it is a constant */
const ngx_str_t *ngx_convotic_error_body(ngx_uint_t status);

/*
 * The message, and the code if it is one of the five, of a body that is in
 * the documented shape already.  NGX_DECLINED: any other body, or no memory;
 * nothing was changed.
 */
ngx_int_t ngx_convotic_error_adopt(ngx_pool_t *pool,
    ngx_convotic_answer_t *answer, ngx_str_t *body);

/* an answer with our own text for the status; both strings are constants */
void ngx_convotic_error_set(ngx_convotic_answer_t *answer, ngx_uint_t status);

/*
 * 429, for rest ms, and the whole seconds that clients are told for that: at
 * least one, at most a minute
 */
void ngx_convotic_error_limited(ngx_pool_t *pool,
    ngx_convotic_answer_t *answer, ngx_msec_t rest);
time_t ngx_convotic_error_seconds(ngx_msec_t rest);

/*
 * An answer with a text as of ngx_sprintf(), cut at 512 bytes, in the pool.
 * The text is ASCII.  Without memory, as ngx_convotic_error_set().
 */
void ngx_cdecl ngx_convotic_error_format(ngx_pool_t *pool,
    ngx_convotic_answer_t *answer, ngx_uint_t status, const char *fmt, ...);


#endif /* _NGX_CONVOTIC_ERROR_H_INCLUDED_ */
