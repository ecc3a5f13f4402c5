
/*
 * Owns the two ways out: sentences for people on standard error, and lines of
 * JSON on standard output.  Text results are printed by their commands, with
 * what Redis told escaped by text.c.  Called by all; keeps nothing.
 */


#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "output.h"


void
output_say(const char *fmt, ...)
{
    va_list  args;

    fputs("convoticctl: ", stderr);

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);

    fputc('\n', stderr);
}


void
output_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_COMPACT);
    fputc('\n', stdout);
    json_decref(json);
}


/* a pipe may be closed, a disk full */

bool
output_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return true;
    }

    output_say("standard output cannot be written: %s", strerror(errno));

    return false;
}
