
/*
 * Owns the form of a window's value: its number, its end, what is leased, the
 * number of a window that was taken up in it and how much that was, and the
 * server.  Called by rate.c and doctor_store.c.
 */


#include <stdlib.h>
#include <string.h>

#include "window.h"


#define WINDOW_FIELDS  6

#define DIGITS   "0123456789"
#define LETTERS  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


bool
window_parse(const char *value, size_t len, window_t *w)
{
    int          i;
    size_t       n;
    const char  *p, *field[WINDOW_FIELDS];

    static const struct {
        const char  *of;
        size_t       len;        /* at most, as the gateway's script has it */
    } form[WINDOW_FIELDS] = {
        { DIGITS, 18 }, { DIGITS, 13 }, { DIGITS, 13 }, { DIGITS "*", 64 },
        { DIGITS, 13 }, { DIGITS LETTERS "-", 64 }
    };

    if (strlen(value) != len) {
        return false;
    }

    p = value;

    for (i = 0; i < WINDOW_FIELDS; i++) {
        field[i] = p;

        n = strspn(p, form[i].of);

        if (n == 0 || n > form[i].len
            || p[n] != (i < WINDOW_FIELDS - 1 ? ' ' : '\0'))
        {
            return false;
        }

        p += n + 1;
    }

    w->end = atoll(field[1]);
    w->leased = atoll(field[2]);

    return strncmp(field[0], "0 ", 2) != 0;
}
