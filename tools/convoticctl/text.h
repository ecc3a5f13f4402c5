
/*
 * Text: bytes of any kind, what may be shown of them, and the two forms that
 * the command line and the records have in common, words and numbers.
 */


#ifndef _CTL_TEXT_H_INCLUDED_
#define _CTL_TEXT_H_INCLUDED_


#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>


#define TEXT_WORD_MAX  128              /* bytes of an id, of a workspace */


/* data is NULL when absent, and ends with a NUL that len does not count */

typedef struct {
    char    *data;
    size_t   len;
} text_t;


/* a copy, in place of what t has */
void text_set(text_t *t, const char *data, size_t len);

/* false where t is absent */
bool text_is(const text_t *t, const char *s);

/* of the bytes, for qsort(): less than, equal to, or greater than 0 */
int text_compare(const void *one, const void *two);

/* never NULL; the caller frees it */
char *text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *text_vformat(const char *fmt, va_list args)
    __attribute__((format(printf, 1, 0)));

bool text_utf8(const char *s, size_t len);

/* the bytes of a control character (C0, DEL, or C1 in UTF-8) at s, or 0 */
size_t text_control(const char *s, size_t len);

/*
 * For a terminal: control characters, backslashes, and bytes that are no UTF-8
 * become \xHH.  The caller frees it.
 */
char *text_escape(const char *s, size_t len);

/* a JSON string; bytes that are no UTF-8 are escaped as on a terminal */
json_t *text_json(const char *s, size_t len);

/* [A-Za-z0-9._-]{1,128} */
bool text_word(const char *s, size_t len);

/* decimal digits without a leading zero, at most max; or -1 */
long long text_number(const char *s, size_t len, long long max);


#endif /* _CTL_TEXT_H_INCLUDED_ */
