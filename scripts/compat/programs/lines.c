/* A program on stdio that writes each line at once: a write(2) for each. */
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    FILE *file = fopen(arguments[1], "w");
    if (!file || setvbuf(file, NULL, _IOLBF, BUFSIZ)) {
        perror(arguments[1]);
        return 1;
    }
    for (long line = 0, lines = atol(arguments[2]); line < lines; line++)
        if (fprintf(file, "line %ld of %ld\n", line, lines) < 0)
            break;
    if (ferror(file) | fclose(file)) {
        perror(arguments[1]);
        return 1;
    }
    return 0;
}
