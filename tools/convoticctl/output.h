
/*
 * What a run tells: sentences on standard error, results on standard output.
 */


#ifndef _CTL_OUTPUT_H_INCLUDED_
#define _CTL_OUTPUT_H_INCLUDED_


#include <stdbool.h>

#include <jansson.h>


/* a sentence, without a line feed */
void output_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* one line; takes the reference */
void output_json(json_t *json);

/* false, and said: standard output has not taken it all */
bool output_flush(void);


#endif /* _CTL_OUTPUT_H_INCLUDED_ */
