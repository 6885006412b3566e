// Parses a document of nested JSON into a tree, walks it, and frees it.
#include "timed.h"

enum { RECORDS = 400, ROOM = 1 << 17 };

typedef enum { NUMBER, STRING, ARRAY, OBJECT, LITERAL } Kind;

typedef struct Value {
    Kind kind;
    double number;
    char *text;           // a string's, else a member's name
    struct Value *first;  // of an array's or object's items
    struct Value *next;
} Value;

static char document[ROOM];

static void prepare(void) {
    char *at = document;
    at += sprintf(at, "[");
    for (int i = 0; i < RECORDS; i++)
        at += sprintf(at,
                      "%s{\"id\": %d, \"name\": \"record %u\\n\\u0041\", \"score\": -%u.%03ue2, \"tags\": [\"a%u\", \"b\", []], "
                      "\"nested\": {\"ok\": true, \"none\": null, \"x\": [%u, %u, %u]}}",
                      i ? ", " : "", i, next_random() % 1000, next_random() % 100, next_random() % 1000,
                      next_random() % 10, next_random() % 9, next_random() % 99, next_random() % 999);
    sprintf(at, "]");
}

static const char *cursor;

static void blank(void) {
    while (*cursor == ' ' || *cursor == '\n' || *cursor == '\t' || *cursor == '\r')
        cursor++;
}

static void expect(char wanted) {
    blank();
    if (*cursor++ != wanted)
        abort();
}

static int found(char wanted) {
    blank();
    return *cursor == wanted;
}

static char *string(void) {
    expect('"');
    const char *end = cursor;
    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    char *text = malloc((size_t)(end - cursor) + 1), *to = text;
    while (cursor < end) {
        if (*cursor != '\\') {
            *to++ = *cursor++;
        } else if (cursor[1] == 'u') {
            char digits[5] = {cursor[2], cursor[3], cursor[4], cursor[5], 0};
            *to++ = (char)strtol(digits, NULL, 16);
            cursor += 6;
        } else {
            *to++ = cursor[1] == 'n' ? '\n' : cursor[1];
            cursor += 2;
        }
    }
    *to = 0;
    cursor++;
    return text;
}

static double number(void) {
    double sign = 1, value = 0, scale = 1;
    if (*cursor == '-') {
        sign = -1;
        cursor++;
    }
    while (*cursor >= '0' && *cursor <= '9')
        value = value * 10 + (*cursor++ - '0');
    if (*cursor == '.')
        for (cursor++; *cursor >= '0' && *cursor <= '9'; scale *= 10)
            value = value * 10 + (*cursor++ - '0');
    if (*cursor == 'e') {  // of one digit
        for (int exponent = cursor[1] - '0'; exponent > 0; exponent--)
            value *= 10;
        cursor += 2;
    }
    return sign * value / scale;
}

static Value *parse(void) {
    Value *value = calloc(1, sizeof *value);
    blank();
    if (*cursor == '"') {
        value->kind = STRING;
        value->text = string();
    } else if (*cursor == '[' || *cursor == '{') {
        char close = *cursor == '[' ? ']' : '}';
        value->kind = *cursor++ == '[' ? ARRAY : OBJECT;
        for (Value **to = &value->first; !found(close); to = &(*to)->next) {
            if (to != &value->first)
                expect(',');
            char *name = NULL;
            if (value->kind == OBJECT) {
                blank();
                name = string();
                expect(':');
            }
            *to = parse();
            if ((*to)->text)
                free(name);
            else
                (*to)->text = name;
        }
        cursor++;
    } else if (*cursor == '-' || (*cursor >= '0' && *cursor <= '9')) {
        value->kind = NUMBER;
        value->number = number();
    } else {
        value->kind = LITERAL;
        value->number = *cursor == 't';
        while (*cursor >= 'a' && *cursor <= 'z')
            cursor++;
    }
    return value;
}

static uint64_t walk(Value *value) {
    uint64_t sum = (uint64_t)value->kind * 31 + (uint64_t)(int64_t)(value->number * 1000);
    for (const char *text = value->text; text && *text; text++)
        sum = sum * 131 + (unsigned char)*text;
    for (Value *item = value->first, *next; item; item = next) {
        next = item->next;
        sum = sum * 17 + walk(item);
    }
    free(value->text);
    free(value);
    return sum;
}

static uint64_t work(void) {
    cursor = document;
    return walk(parse());
}

int main(int argc, char **argv) { return timed(prepare, work, argc, argv); }
