
/*
 * Owns the variables, which read the context of the main request: they are
 * true in a log, in "proxy_set_header" and after an internal redirect alike.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_digits.h"
#include "ngx_convotic_ctx.h"
#include "ngx_convotic_variables.h"


static ngx_int_t ngx_convotic_variables_string(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_limit(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_cache_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_error_code(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_redis_time(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_rate_remaining(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_convotic_variables_number(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_uint_t n);
static ngx_int_t ngx_convotic_variables_text(ngx_http_variable_value_t *v,
    const char *text);


static ngx_http_variable_t  ngx_convotic_variables[] = {

    { ngx_string("convotic_workspace"), NULL,
      ngx_convotic_variables_string,
      offsetof(ngx_convotic_ctx_t, workspace), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_key_id"), NULL,
      ngx_convotic_variables_string,
      offsetof(ngx_convotic_ctx_t, key_id), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_platform"), NULL,
      ngx_convotic_variables_string,
      offsetof(ngx_convotic_ctx_t, platform), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_limit"), NULL,
      ngx_convotic_variables_limit, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_cache_status"), NULL,
      ngx_convotic_variables_cache_status, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_error_code"), NULL,
      ngx_convotic_variables_error_code, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_rate_remaining"), NULL,
      ngx_convotic_variables_rate_remaining, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("convotic_redis_time"), NULL,
      ngx_convotic_variables_redis_time, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_convotic_variables_add(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_convotic_variables; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_variables_string(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t           *value;
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_ctx_get(r);
    value = ctx ? (ngx_str_t *) ((char *) ctx + data) : NULL;

    if (value == NULL || value->len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = value->len;
    v->data = value->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_variables_limit(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_ctx_get(r);

    if (ctx == NULL || ctx->limit == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_convotic_variables_number(r, v, ctx->limit);
}


static ngx_int_t
ngx_convotic_variables_rate_remaining(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_ctx_get(r);

    if (ctx == NULL || ctx->rate.limit == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_convotic_variables_number(r, v,
                                         ctx->rate.allowance.remaining);
}


static ngx_int_t
ngx_convotic_variables_cache_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_convotic_ctx_t  *ctx;

    static const char  *names[] = {
        "-", "LOCAL", "HIT", "MISS", "MISS", "UPDATING", "STALE", "BYPASS"
    };

    ctx = ngx_convotic_ctx_get(r);

    return ngx_convotic_variables_text(v, ctx ? names[ctx->cache.status]
                                              : names[0]);
}


static ngx_int_t
ngx_convotic_variables_error_code(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_ctx_get(r);

    if (ctx == NULL || ctx->answer.code == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_convotic_variables_text(v, ctx->answer.code);
}


/* as $upstream_response_time: seconds with milliseconds */

static ngx_int_t
ngx_convotic_variables_redis_time(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_convotic_ctx_t  *ctx;

    ctx = ngx_convotic_ctx_get(r);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = ngx_pnalloc(r->pool, NGX_TIME_T_LEN + 4);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(v->data, "%T.%03M",
                         (time_t) (ctx->redis_time / 1000),
                         ctx->redis_time % 1000)
             - v->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_variables_number(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, ngx_uint_t n)
{
    v->data = ngx_pnalloc(r->pool, NGX_CONVOTIC_DIGITS_MAX);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_convotic_digits(v->data, n) - v->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_variables_text(ngx_http_variable_value_t *v, const char *text)
{
    v->data = (u_char *) text;
    v->len = ngx_strlen(text);
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}
