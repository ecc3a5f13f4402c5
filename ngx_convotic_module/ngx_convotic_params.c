
/*
 * Owns the reading of the query string: raw bytes in, a canonical query out.
 * Two queries that mean the same have one canonical form, and two that have
 * one form mean the same; the cache and the upstream see nothing else.
 *
 * nginx's own ngx_http_arg() would not do: it ignores case, takes the first
 * of two and does not decode.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_params.h"


/* as much of a parameter's name as an error message repeats */
#define NGX_CONVOTIC_PARAMS_NAME_MAX  64


typedef struct {
    ngx_str_t    name;       /* decoded */
    ngx_str_t    value;
} ngx_convotic_param_t;


static ngx_int_t ngx_convotic_params_parse(ngx_http_request_t *r,
    ngx_array_t *params);
static ngx_uint_t ngx_convotic_params_is_encoded(ngx_str_t *args);
static ngx_int_t ngx_convotic_params_decode(u_char **dst, u_char *p,
    u_char *last, ngx_str_t *value);
static ngx_int_t ngx_convotic_params_judge(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_array_t *params);
static ngx_int_t ngx_convotic_params_unknown(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *name);
static ngx_int_t ngx_convotic_params_limit(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_convotic_params_platform(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_str_t *value);
static ngx_int_t ngx_convotic_params_canonical(ngx_http_request_t *r,
    ngx_convotic_ctx_t *ctx, ngx_array_t *params);
static ngx_str_t *ngx_convotic_params_find(ngx_array_t *names,
    ngx_str_t *name);
static ngx_uint_t ngx_convotic_params_equal(ngx_str_t *value,
    const char *text);
static u_char *ngx_convotic_params_encode(u_char *p, ngx_str_t *value);


ngx_int_t
ngx_convotic_params_start(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx)
{
    ngx_int_t    rc;
    ngx_array_t  params;

    if (ngx_array_init(&params, r->pool, 4, sizeof(ngx_convotic_param_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    rc = ngx_convotic_params_parse(r, &params);

    if (rc == NGX_DECLINED) {
        ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_BAD_REQUEST,
                                  "Malformed query string");
        return NGX_DONE;
    }

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_convotic_params_judge(r, ctx, &params);

    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_convotic_params_canonical(r, ctx, &params);
}


/* NGX_DECLINED: malformed percent-encoding, in whatever parameter */

static ngx_int_t
ngx_convotic_params_parse(ngx_http_request_t *r, ngx_array_t *params)
{
    u_char                *p, *last, *amp, *eq, *dst;
    ngx_convotic_param_t  *param;

    if (r->args.len == 0) {
        return NGX_OK;
    }

    p = r->args.data;
    last = p + r->args.len;
    dst = NULL;

    /* decoding never lengthens */

    if (ngx_convotic_params_is_encoded(&r->args)) {
        dst = ngx_pnalloc(r->pool, r->args.len);
        if (dst == NULL) {
            return NGX_ERROR;
        }
    }

    for ( /* void */ ; p < last; p = amp + 1) {

        amp = ngx_strlchr(p, last, '&');
        if (amp == NULL) {
            amp = last;
        }

        if (amp == p) {
            continue;
        }

        eq = ngx_strlchr(p, amp, '=');
        if (eq == NULL) {
            eq = amp;
        }

        param = ngx_array_push(params);
        if (param == NULL) {
            return NGX_ERROR;
        }

        if (ngx_convotic_params_decode(&dst, p, eq, &param->name) != NGX_OK) {
            return NGX_DECLINED;
        }

        p = (eq < amp) ? eq + 1 : eq;

        if (ngx_convotic_params_decode(&dst, p, amp, &param->value)
            != NGX_OK)
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_convotic_params_is_encoded(ngx_str_t *args)
{
    return memchr(args->data, '%', args->len) != NULL
           || memchr(args->data, '+', args->len) != NULL;
}


/* *dst is NULL if nothing of the query is encoded */

static ngx_int_t
ngx_convotic_params_decode(u_char **dst, u_char *p, u_char *last,
    ngx_str_t *value)
{
    u_char     *d;
    ngx_int_t   n;

    if (*dst == NULL) {
        value->data = p;
        value->len = last - p;
        return NGX_OK;
    }

    d = *dst;
    value->data = d;

    while (p < last) {

        switch (*p) {

        case '%':
            n = (last - p < 3) ? NGX_ERROR : ngx_hextoi(p + 1, 2);

            if (n == NGX_ERROR) {
                return NGX_DECLINED;
            }

            *d++ = (u_char) n;
            p += 3;
            break;

        case '+':
            *d++ = ' ';
            p++;
            break;

        default:
            *d++ = *p++;
        }
    }

    value->len = d - value->data;
    *dst = d;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_params_judge(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_array_t *params)
{
    ngx_str_t                *limit, *platform;
    ngx_uint_t                i;
    const char               *twice;
    ngx_convotic_param_t     *param;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    limit = NULL;
    platform = NULL;
    twice = NULL;
    param = params->elts;

    for (i = 0; i < params->nelts; i++) {

        if (ngx_convotic_params_equal(&param[i].name, "limit")) {
            twice = limit ? "limit" : twice;
            limit = &param[i].value;

        } else if (ngx_convotic_params_equal(&param[i].name, "platform")) {
            twice = platform ? "platform" : twice;
            platform = &param[i].value;

        } else if (conf->unknown_args == NGX_CONVOTIC_ARGS_REJECT
                   && ngx_convotic_params_find(conf->forward_args,
                                               &param[i].name)
                      == NULL)
        {
            return ngx_convotic_params_unknown(r, ctx, &param[i].name);
        }
    }

    if (twice) {
        ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_BAD_REQUEST,
                                  "Parameter '%s' must appear at most once",
                                  twice);
        return NGX_DONE;
    }

    if (limit == NULL) {
        ctx->limit = conf->limit_default;
        ctx->limit_text = conf->limit_text;

    } else if (ngx_convotic_params_limit(r, ctx, limit) != NGX_OK) {
        return NGX_DONE;
    }

    if (platform && ngx_convotic_params_platform(r, ctx, platform) != NGX_OK) {
        return NGX_DONE;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_params_unknown(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_str_t *name)
{
    u_char     buf[NGX_CONVOTIC_PARAMS_NAME_MAX * 3];
    ngx_str_t  text;

    text = *name;
    text.len = ngx_min(text.len, NGX_CONVOTIC_PARAMS_NAME_MAX);

    /* encoded: the name may be no text at all */

    text.len = ngx_convotic_params_encode(buf, &text) - buf;
    text.data = buf;

    ngx_convotic_error_format(r->pool, &ctx->answer, NGX_HTTP_BAD_REQUEST,
                              "Unknown parameter '%V'", &text);
    return NGX_DONE;
}


static ngx_int_t
ngx_convotic_params_limit(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_str_t *value)
{
    ngx_int_t                 n;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    /* digits only; an overflow is an error too */

    n = ngx_atoi(value->data, value->len);

    if (n >= 1 && (ngx_uint_t) n <= conf->limit_max) {
        ctx->limit = n;
        ctx->limit_text = *value;

        while (ctx->limit_text.data[0] == '0') {
            ctx->limit_text.data++;
            ctx->limit_text.len--;
        }

        return NGX_OK;
    }

    ngx_convotic_error_set(&ctx->answer, NGX_HTTP_BAD_REQUEST);
    ctx->answer.message = conf->limit_error;

    return NGX_DONE;
}


static ngx_int_t
ngx_convotic_params_platform(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_str_t *value)
{
    ngx_str_t                *name;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    name = ngx_convotic_params_find(conf->platforms, value);

    if (name) {
        ctx->platform = *name;
        return NGX_OK;
    }

    ngx_convotic_error_set(&ctx->answer, NGX_HTTP_BAD_REQUEST);
    ctx->answer.message = conf->platforms_error;

    return NGX_DONE;
}


/*
 * platform if given, limit always, then what is forwarded, by the order of
 * the directive; of one name, by the order of the request.
 */

static ngx_int_t
ngx_convotic_params_canonical(ngx_http_request_t *r, ngx_convotic_ctx_t *ctx,
    ngx_array_t *params)
{
    u_char                   *p;
    size_t                    len;
    ngx_str_t                *name;
    ngx_uint_t                i, n;
    ngx_convotic_param_t     *param;
    ngx_convotic_loc_conf_t  *conf;

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);

    len = sizeof("platform=&limit=") - 1 + 3 * ctx->platform.len
          + ctx->limit_text.len;

    param = params->elts;

    if (conf->forward_args) {
        for (i = 0; i < params->nelts; i++) {
            len += sizeof("&=") - 1
                   + 3 * (param[i].name.len + param[i].value.len);
        }
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->query.data = p;

    if (ctx->platform.len) {
        p = ngx_cpymem(p, "platform=", sizeof("platform=") - 1);
        p = ngx_convotic_params_encode(p, &ctx->platform);
        *p++ = '&';
    }

    p = ngx_cpymem(p, "limit=", sizeof("limit=") - 1);
    p = ngx_cpymem(p, ctx->limit_text.data, ctx->limit_text.len);

    if (conf->forward_args) {
        name = conf->forward_args->elts;

        for (n = 0; n < conf->forward_args->nelts; n++) {

            for (i = 0; i < params->nelts; i++) {

                if (param[i].name.len != name[n].len
                    || ngx_memcmp(param[i].name.data, name[n].data,
                                  name[n].len)
                       != 0)
                {
                    continue;
                }

                *p++ = '&';
                p = ngx_convotic_params_encode(p, &param[i].name);
                *p++ = '=';
                p = ngx_convotic_params_encode(p, &param[i].value);
            }
        }
    }

    ctx->query.len = p - ctx->query.data;

    return NGX_OK;
}


static ngx_str_t *
ngx_convotic_params_find(ngx_array_t *names, ngx_str_t *name)
{
    ngx_str_t   *elt;
    ngx_uint_t   i;

    if (names == NULL) {
        return NULL;
    }

    elt = names->elts;

    for (i = 0; i < names->nelts; i++) {

        if (elt[i].len == name->len
            && ngx_memcmp(elt[i].data, name->data, name->len) == 0)
        {
            return &elt[i];
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_convotic_params_equal(ngx_str_t *value, const char *text)
{
    return value->len == ngx_strlen(text)
           && ngx_memcmp(value->data, text, value->len) == 0;
}


/* all but RFC 3986's unreserved characters, so that one form is left */

static u_char *
ngx_convotic_params_encode(u_char *p, ngx_str_t *value)
{
    u_char        ch;
    size_t        i;

    static u_char  hex[] = "0123456789ABCDEF";

    for (i = 0; i < value->len; i++) {
        ch = value->data[i];

        if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
            || (ch >= '0' && ch <= '9')
            || ch == '-' || ch == '.' || ch == '_' || ch == '~')
        {
            *p++ = ch;
            continue;
        }

        *p++ = '%';
        *p++ = hex[ch >> 4];
        *p++ = hex[ch & 0xf];
    }

    return p;
}
