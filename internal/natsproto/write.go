package natsproto

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// What a server answers, ready to be sent.
const (
	OK       = "+OK\r\n"
	PingLine = "PING\r\n"
	PongLine = "PONG\r\n"
)

// NoResponders is the block of headers that says that nobody was there to answer.
const NoResponders = HeaderLine + " 503\r\n\r\n"

// AppendInfo writes INFO.
func AppendInfo(dst []byte, i *Info) []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic(fmt.Sprintf("natsproto: encode %T: %v", i, err)) // texts and numbers
	}
	dst = append(dst, "INFO "...)
	dst = append(dst, b...)
	return append(dst, crlf...)
}

// AppendError writes -ERR; quotes and line ends in the text become blanks.
func AppendError(dst []byte, text string) []byte {
	dst = append(dst, "-ERR '"...)
	dst = append(dst, strings.Map(func(r rune) rune {
		if r == '\'' || r < ' ' {
			return ' '
		}
		return r
	}, text)...)
	return append(dst, "'\r\n"...)
}

// AppendMessage writes MSG or, with headers, HMSG. reply may be empty.
func AppendMessage(dst []byte, subject, sid string, reply, header, payload []byte) []byte {
	if len(header) > 0 {
		dst = append(dst, 'H')
	}
	dst = append(dst, "MSG "...)
	dst = append(dst, subject...)
	dst = append(dst, ' ')
	dst = append(dst, sid...)
	dst = append(dst, ' ')
	if len(reply) > 0 {
		dst = append(dst, reply...)
		dst = append(dst, ' ')
	}
	if len(header) > 0 {
		dst = strconv.AppendInt(dst, int64(len(header)), 10)
		dst = append(dst, ' ')
	}
	dst = strconv.AppendInt(dst, int64(len(header)+len(payload)), 10)
	dst = append(dst, crlf...)
	dst = append(dst, header...)
	dst = append(dst, payload...)
	return append(dst, crlf...)
}
