
/*
 * Owns the table of errors.  A message tells a client what it can mend and
 * nothing of what happened behind the gateway.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_json.h"
#include "ngx_convotic_error.h"


#define NGX_CONVOTIC_ERROR_TEXT  512


typedef struct {
    ngx_uint_t   status;
    const char  *code;
    ngx_str_t    message;
    ngx_str_t    body;
} ngx_convotic_error_t;


/* code is a variable below, name what it says */

#define ngx_convotic_error(status, code, name, text)                          \
    { status, code, ngx_string(text),                                         \
      ngx_string("{\"error\":{\"code\":\"" name "\","                          \
                 "\"message\":\"" text "\"}}") }

#define ngx_convotic_error_unauthorized(status, text)                         \
    ngx_convotic_error(status, ngx_convotic_unauthorized, "UNAUTHORIZED", text)
#define ngx_convotic_error_invalid(status, text)                              \
    ngx_convotic_error(status, ngx_convotic_invalid_request,                  \
                       "INVALID_REQUEST", text)
#define ngx_convotic_error_not_found(status, text)                            \
    ngx_convotic_error(status, ngx_convotic_not_found, "NOT_FOUND", text)
#define ngx_convotic_error_rate(status, text)                                 \
    ngx_convotic_error(status, ngx_convotic_rate_limited, "RATE_LIMITED", text)
#define ngx_convotic_error_internal(status, text)                             \
    ngx_convotic_error(status, ngx_convotic_internal_error,                   \
                       "INTERNAL_ERROR", text)


static const char  ngx_convotic_unauthorized[] = "UNAUTHORIZED";
static const char  ngx_convotic_invalid_request[] = "INVALID_REQUEST";
static const char  ngx_convotic_not_found[] = "NOT_FOUND";
static const char  ngx_convotic_rate_limited[] = "RATE_LIMITED";
static const char  ngx_convotic_internal_error[] = "INTERNAL_ERROR";


/* the first row of a hundred is for statuses that have none of their own */

static const ngx_convotic_error_t  ngx_convotic_errors[] = {

    ngx_convotic_error_invalid(499, "The request could not be processed"),
    ngx_convotic_error_invalid(400, "Malformed request"),
    ngx_convotic_error_unauthorized(401, "Authentication required"),
    ngx_convotic_error_unauthorized(403, "Access denied"),
    ngx_convotic_error_not_found(404, "Resource not found"),
    ngx_convotic_error_invalid(405, "Method not allowed"),
    ngx_convotic_error_invalid(406, "Not acceptable"),
    ngx_convotic_error_invalid(408, "Request timed out"),
    ngx_convotic_error_invalid(409, "Conflict"),
    ngx_convotic_error_not_found(410, "Resource is no longer available"),
    ngx_convotic_error_invalid(411, "Content-Length is required"),
    ngx_convotic_error_invalid(412, "Precondition failed"),
    ngx_convotic_error_invalid(413, "Request body is too large"),
    ngx_convotic_error_invalid(414, "Request URI is too long"),
    ngx_convotic_error_invalid(415, "Unsupported media type"),
    ngx_convotic_error_invalid(416, "Range not satisfiable"),
    ngx_convotic_error_invalid(421, "Misdirected request"),
    ngx_convotic_error_rate(429, "Rate limit exceeded"),

    ngx_convotic_error_internal(599, "An unexpected error occurred"),
    ngx_convotic_error_internal(501, "Not implemented"),
    ngx_convotic_error_internal(502,
        "The upstream service gave no valid answer"),
    ngx_convotic_error_internal(503, "Service temporarily unavailable"),
    ngx_convotic_error_internal(504,
        "The upstream service did not answer in time"),
    ngx_convotic_error_internal(505, "HTTP version not supported"),

    { 0, NULL, ngx_null_string, ngx_null_string }
};


static const ngx_convotic_error_t *ngx_convotic_error_lookup(
    ngx_uint_t status);


const ngx_str_t *
ngx_convotic_error_body(ngx_uint_t status)
{
    return &ngx_convotic_error_lookup(status)->body;
}


ngx_int_t
ngx_convotic_error_adopt(ngx_pool_t *pool, ngx_convotic_answer_t *answer,
    ngx_str_t *body)
{
    ngx_str_t                    code, message;
    const ngx_convotic_error_t  *e;

    if (body->len == 0
        || ngx_convotic_json_judge_error(pool, body, &code, &message)
           != NGX_OK)
    {
        return NGX_DECLINED;
    }

    answer->message = message;

    for (e = ngx_convotic_errors; e->status; e++) {

        if (ngx_strlen(e->code) == code.len
            && ngx_strncmp(e->code, code.data, code.len) == 0)
        {
            answer->code = e->code;
            break;
        }
    }

    return NGX_OK;
}


ngx_uint_t
ngx_convotic_error_index(const char *code)
{
    ngx_uint_t  i;

    static const char  *codes[] = {
        ngx_convotic_unauthorized,
        ngx_convotic_invalid_request,
        ngx_convotic_not_found,
        ngx_convotic_rate_limited
    };

    for (i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i] == code) {
            break;
        }
    }

    return i;
}


ngx_uint_t
ngx_convotic_error_status(ngx_convotic_loc_conf_t *conf, ngx_uint_t status,
    const char *code)
{
    if (conf->error_status == NGX_CONVOTIC_ERROR_STATUS_PRESERVE) {
        return status;
    }

    if (code == ngx_convotic_unauthorized) {
        return NGX_HTTP_UNAUTHORIZED;
    }

    if (code == ngx_convotic_invalid_request) {
        return NGX_HTTP_BAD_REQUEST;
    }

    if (code == ngx_convotic_not_found) {
        return NGX_HTTP_NOT_FOUND;
    }

    if (code == ngx_convotic_rate_limited) {
        return NGX_HTTP_TOO_MANY_REQUESTS;
    }

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


void
ngx_convotic_error_set(ngx_convotic_answer_t *answer, ngx_uint_t status)
{
    const ngx_convotic_error_t  *e;

    e = ngx_convotic_error_lookup(status);

    answer->status = status;
    answer->code = e->code;
    answer->message = e->message;
}


void
ngx_convotic_error_limited(ngx_pool_t *pool, ngx_convotic_answer_t *answer,
    ngx_msec_t rest)
{
    answer->retry_after = ngx_convotic_error_seconds(rest);

    ngx_convotic_error_format(pool, answer, NGX_HTTP_TOO_MANY_REQUESTS,
                              "Rate limit exceeded. Retry after %T seconds.",
                              answer->retry_after);
}


time_t
ngx_convotic_error_seconds(ngx_msec_t rest)
{
    time_t  seconds;

    seconds = (rest + 999) / 1000;

    return ngx_max(1, ngx_min(seconds, 60));
}


void ngx_cdecl
ngx_convotic_error_format(ngx_pool_t *pool, ngx_convotic_answer_t *answer,
    ngx_uint_t status, const char *fmt, ...)
{
    u_char   *p, *last;
    va_list   args;

    ngx_convotic_error_set(answer, status);

    p = ngx_pnalloc(pool, NGX_CONVOTIC_ERROR_TEXT);
    if (p == NULL) {
        return;
    }

    va_start(args, fmt);
    last = ngx_vslprintf(p, p + NGX_CONVOTIC_ERROR_TEXT, fmt, args);
    va_end(args);

    answer->message.data = p;
    answer->message.len = last - p;
}


static const ngx_convotic_error_t *
ngx_convotic_error_lookup(ngx_uint_t status)
{
    const ngx_convotic_error_t  *e, *other;

    other = ngx_convotic_errors;

    for (e = ngx_convotic_errors; e->status; e++) {

        if (e->status == status) {
            return e;
        }

        if (e->status % 100 == 99 && status >= e->status - 99) {
            other = e;
        }
    }

    return other;
}
