
/*
 * Owns the reading of Cache-Control, Expires, Age, Vary, Set-Cookie and
 * X-Accel-Expires of an upstream's answer.  When in doubt, an answer is not
 * stored.  "proxy_ignore_headers" is honoured.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_fresh.h"


static void ngx_convotic_fresh_control(ngx_convotic_fresh_t *fresh,
    ngx_str_t *value);
static void ngx_convotic_fresh_directive(ngx_convotic_fresh_t *fresh,
    ngx_str_t *name, ngx_str_t *arg);
static void ngx_convotic_fresh_vary(ngx_convotic_fresh_t *fresh,
    ngx_str_t *value);
static void ngx_convotic_fresh_x_accel(ngx_convotic_fresh_t *fresh,
    ngx_str_t *value);
static ngx_int_t ngx_convotic_fresh_token(u_char **pos, u_char *last,
    ngx_str_t *name, ngx_str_t *arg);
static time_t ngx_convotic_fresh_seconds(ngx_str_t *value);
static ngx_uint_t ngx_convotic_fresh_is(ngx_str_t *value, const char *text);


void
ngx_convotic_fresh_init(ngx_convotic_fresh_t *fresh, ngx_uint_t ignore)
{
    ngx_memzero(fresh, sizeof(ngx_convotic_fresh_t));

    fresh->ignore = ignore;
    fresh->x_accel = -1;
    fresh->s_maxage = -1;
    fresh->max_age = -1;
    fresh->stale_if_error = -1;
    fresh->expires = -1;
    fresh->date = -1;
}


void
ngx_convotic_fresh_header(ngx_convotic_fresh_t *fresh, ngx_str_t *name,
    ngx_str_t *value)
{
    time_t  age, expires;

    if (ngx_convotic_fresh_is(name, "Cache-Control")) {
        if (!(fresh->ignore & NGX_HTTP_UPSTREAM_IGN_CACHE_CONTROL)) {
            ngx_convotic_fresh_control(fresh, value);
        }

    } else if (ngx_convotic_fresh_is(name, "Expires")) {
        if (!(fresh->ignore & NGX_HTTP_UPSTREAM_IGN_EXPIRES)) {

            /* an invalid date, "0" above all, is in the past */

            expires = ngx_parse_http_time(value->data, value->len);
            expires = ngx_max(expires, 0);

            fresh->expires = (fresh->expires < 0)
                             ? expires : ngx_min(fresh->expires, expires);
        }

    } else if (ngx_convotic_fresh_is(name, "X-Accel-Expires")) {
        if (!(fresh->ignore & NGX_HTTP_UPSTREAM_IGN_XA_EXPIRES)) {
            ngx_convotic_fresh_x_accel(fresh, value);
        }

    } else if (ngx_convotic_fresh_is(name, "Set-Cookie")) {
        if (!(fresh->ignore & NGX_HTTP_UPSTREAM_IGN_SET_COOKIE)) {
            fresh->refused = "Set-Cookie";
        }

    } else if (ngx_convotic_fresh_is(name, "Vary")) {
        if (!(fresh->ignore & NGX_HTTP_UPSTREAM_IGN_VARY)) {
            ngx_convotic_fresh_vary(fresh, value);
        }

    } else if (ngx_convotic_fresh_is(name, "Date")) {
        fresh->date = ngx_parse_http_time(value->data, value->len);

    } else if (ngx_convotic_fresh_is(name, "Age")) {
        age = ngx_convotic_fresh_seconds(value);
        fresh->age = ngx_max(fresh->age, age);
    }
}


ngx_int_t
ngx_convotic_fresh_times(ngx_convotic_fresh_t *fresh, ngx_msec_t *valid,
    ngx_msec_t *stale)
{
    time_t  lifetime, date, sie;

    date = (fresh->date < 0) ? ngx_time() : fresh->date;

    /* nginx's own header stands above the standard's */

    if (fresh->x_accel >= 0) {
        lifetime = fresh->x_accel;
        fresh->age = 0;

    } else if (fresh->s_maxage >= 0) {
        lifetime = fresh->s_maxage;
        fresh->must_revalidate = 1;

    } else if (fresh->max_age >= 0) {
        lifetime = fresh->max_age;

    } else if (fresh->expires >= 0) {
        lifetime = (fresh->expires > date) ? fresh->expires - date : 0;

    } else {
        lifetime = -1;
    }

    if (fresh->refused) {
        return NGX_DECLINED;
    }

    /* RFC 9111, 4.2.3: what was made long ago says so; a second is rounding */

    if (lifetime >= 0 && fresh->x_accel < 0 && ngx_time() > date + 1) {
        fresh->age = ngx_max(fresh->age, ngx_time() - date);
    }

    if (lifetime >= 0) {
        lifetime = ngx_min(lifetime, NGX_CONVOTIC_FRESH_MAX) - fresh->age;
        *valid = (lifetime > 0) ? (ngx_msec_t) lifetime * 1000 : 0;
    }

    if (*valid == 0) {
        fresh->refused = "not fresh";
        return NGX_DECLINED;
    }

    if (fresh->must_revalidate) {
        *stale = 0;

    } else if (fresh->stale_if_error >= 0) {
        sie = ngx_min(fresh->stale_if_error, NGX_CONVOTIC_FRESH_MAX);
        *stale = ngx_min(*stale, (ngx_msec_t) sie * 1000);
    }

    return NGX_OK;
}


static void
ngx_convotic_fresh_control(ngx_convotic_fresh_t *fresh, ngx_str_t *value)
{
    u_char     *p, *last;
    ngx_int_t   rc;
    ngx_str_t   name, arg;

    p = value->data;
    last = p + value->len;

    for ( ;; ) {
        rc = ngx_convotic_fresh_token(&p, last, &name, &arg);

        if (rc != NGX_OK) {
            break;
        }

        ngx_convotic_fresh_directive(fresh, &name, &arg);
    }

    if (rc == NGX_ERROR) {
        fresh->refused = "malformed Cache-Control";
    }
}


/* RFC 9111, 4.2.1: of two values, the one that is stale sooner */

static void
ngx_convotic_fresh_directive(ngx_convotic_fresh_t *fresh, ngx_str_t *name,
    ngx_str_t *arg)
{
    time_t  n, *age;

    if (ngx_convotic_fresh_is(name, "no-store")) {
        fresh->refused = "no-store";
        return;
    }

    if (ngx_convotic_fresh_is(name, "private")) {
        fresh->refused = "private";
        return;
    }

    if (ngx_convotic_fresh_is(name, "no-cache")) {
        fresh->refused = "no-cache";
        return;
    }

    if (ngx_convotic_fresh_is(name, "must-revalidate")
        || ngx_convotic_fresh_is(name, "proxy-revalidate"))
    {
        fresh->must_revalidate = 1;
        return;
    }

    if (ngx_convotic_fresh_is(name, "s-maxage")) {
        age = &fresh->s_maxage;

    } else if (ngx_convotic_fresh_is(name, "max-age")) {
        age = &fresh->max_age;

    } else if (ngx_convotic_fresh_is(name, "stale-if-error")) {
        age = &fresh->stale_if_error;

    } else {
        return;
    }

    n = ngx_convotic_fresh_seconds(arg);

    *age = (*age < 0) ? n : ngx_min(*age, n);
}


static void
ngx_convotic_fresh_vary(ngx_convotic_fresh_t *fresh, ngx_str_t *value)
{
    u_char     *p, *last;
    ngx_int_t   rc;
    ngx_str_t   name, arg;

    p = value->data;
    last = p + value->len;

    /* the upstream is never told an Accept-Encoding */

    for ( ;; ) {
        rc = ngx_convotic_fresh_token(&p, last, &name, &arg);

        if (rc == NGX_DONE) {
            return;
        }

        if (rc == NGX_ERROR
            || arg.data
            || !ngx_convotic_fresh_is(&name, "Accept-Encoding"))
        {
            fresh->refused = "Vary";
            return;
        }
    }
}


static void
ngx_convotic_fresh_x_accel(ngx_convotic_fresh_t *fresh, ngx_str_t *value)
{
    time_t     n;
    ngx_str_t  text;

    text = *value;

    if (text.len && text.data[0] == '@') {
        text.data++;
        text.len--;

        n = ngx_convotic_fresh_seconds(&text) - ngx_time();

    } else {
        n = ngx_convotic_fresh_seconds(&text);
    }

    fresh->x_accel = ngx_max(n, 0);
}


/*
 * The next element of a list: name[=arg], the argument perhaps quoted.
 * NGX_DONE at the end; NGX_ERROR: it is not such a list.
 */

static ngx_int_t
ngx_convotic_fresh_token(u_char **pos, u_char *last, ngx_str_t *name,
    ngx_str_t *arg)
{
    u_char  *p, *ch;

    p = *pos;

    while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
        p++;
    }

    if (p == last) {
        return NGX_DONE;
    }

    name->data = p;

    while (p < last && *p != ',' && *p != '=' && *p != ' ' && *p != '\t') {
        p++;
    }

    name->len = p - name->data;
    ngx_str_null(arg);

    if (p < last && *p == '=') {
        p++;
        arg->data = p;

        if (p < last && *p == '"') {
            arg->data = ++p;

            while (p < last && *p != '"') {
                p += (*p == '\\' && last - p > 1) ? 2 : 1;
            }

            if (p == last) {
                return NGX_ERROR;
            }

            arg->len = p++ - arg->data;

        } else {
            while (p < last && *p != ',' && *p != ' ' && *p != '\t') {
                p++;
            }

            arg->len = p - arg->data;
        }
    }

    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    if ((p < last && *p != ',') || name->len == 0) {
        return NGX_ERROR;
    }

    for (ch = name->data; ch < name->data + name->len; ch++) {
        if (*ch == ';' || *ch == '"') {
            return NGX_ERROR;
        }
    }

    *pos = p;

    return NGX_OK;
}


/* 0 for what is malformed, the stale side; a day and more are alike */

static time_t
ngx_convotic_fresh_seconds(ngx_str_t *value)
{
    size_t     i;
    ngx_int_t  n;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < '0' || value->data[i] > '9') {
            return 0;
        }
    }

    if (value->len == 0) {
        return 0;
    }

    n = ngx_atoi(value->data, value->len);

    return (n == NGX_ERROR) ? NGX_MAX_INT32_VALUE : n;
}


static ngx_uint_t
ngx_convotic_fresh_is(ngx_str_t *value, const char *text)
{
    return value->len == ngx_strlen(text)
           && ngx_strncasecmp(value->data, (u_char *) text, value->len) == 0;
}
