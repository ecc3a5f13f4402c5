
/*
 * A number in decimal digits: ngx_sprintf() takes ten times as long.
 */


#ifndef _NGX_CONVOTIC_DIGITS_H_INCLUDED_
#define _NGX_CONVOTIC_DIGITS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* as many bytes at most */
#define NGX_CONVOTIC_DIGITS_MAX  NGX_INT64_LEN


/* in front of last, where there is room for _MAX; returns where they begin */

static ngx_inline u_char *
ngx_convotic_digits_before(u_char *last, uint64_t n)
{
    do {
        *--last = (u_char) (n % 10 + '0');
        n /= 10;
    } while (n);

    return last;
}


/* at p; returns where they end */

static ngx_inline u_char *
ngx_convotic_digits(u_char *p, uint64_t n)
{
    u_char  digits[NGX_CONVOTIC_DIGITS_MAX], *d, *last;

    last = digits + NGX_CONVOTIC_DIGITS_MAX;
    d = ngx_convotic_digits_before(last, n);

    return ngx_cpymem(p, d, last - d);
}


#endif /* _NGX_CONVOTIC_DIGITS_H_INCLUDED_ */
