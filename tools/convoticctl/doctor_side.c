
/*
 * Owns the form of the doctor's findings, and what INFO told of a server.  A
 * side_t and the findings live in doctor_handler(); the files doctor_*.c make
 * the checks.
 */


#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor_side.h"
#include "text.h"


void
side_say(side_t *side, side_verdict_t verdict, const char *check,
    const char *fmt, ...)
{
    char     *text, name[32];
    va_list   args;

    static const char *const  words[] = { "ok", "warn", "FAIL" };
    static const char *const  json_words[] = { "ok", "warn", "fail" };

    va_start(args, fmt);
    text = text_vformat(fmt, args);
    va_end(args);

    snprintf(name, sizeof(name), "%s%s%s", side->label ? side->label : "",
             side->label ? " " : "", check);

    if (side->findings->checks) {
        json_array_append_new(side->findings->checks,
            json_pack("{s:s, s:s, s:s}", "check", name,
                      "result", json_words[verdict], "text", text));

    } else {
        printf("%-4s  %-18s  %s\n", words[verdict], name, text);
    }

    side->findings->failed += (verdict == SIDE_FAIL);
    free(text);
}


bool
side_info(const side_t *side, const char *name, char *buf, size_t size)
{
    char        *text;
    size_t       n, len;
    const char  *p;

    n = strlen(name);

    for (p = side->info; p != NULL; p = strchr(p, '\n')) {
        p += (*p == '\n');

        if (strncmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1;

            text = text_escape(p, strcspn(p, "\r\n"));
            len = (size_t) snprintf(buf, size, "%s", text);
            free(text);

            return len < size;
        }
    }

    return false;
}


long long
side_info_number(const side_t *side, const char *name)
{
    char  buf[32];

    if (!side_info(side, name, buf, sizeof(buf))) {
        return -1;
    }

    return text_number(buf, strlen(buf), LLONG_MAX);
}


void
side_free(side_t *side)
{
    conn_close(&side->conn);
    free(side->info);
}
