#include <stdio.h>

int main(void) {
#ifdef __TINYC__
    puts("made by tcc");
#endif
    return 0;
}
