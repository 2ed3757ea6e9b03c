/// The Linux error numbers that operations answer with; the format modules have no C library to take them from.
package enum Errno {
    package static var notPermitted: Int32 { 1 }
    package static var tooBig: Int32 { 7 }
    package static var noEntry: Int32 { 2 }
    package static var ioError: Int32 { 5 }
    package static var accessDenied: Int32 { 13 }
    package static var busy: Int32 { 16 }
    package static var exists: Int32 { 17 }
    package static var crossDevice: Int32 { 18 }
    package static var notDirectory: Int32 { 20 }
    package static var isDirectory: Int32 { 21 }
    package static var invalid: Int32 { 22 }
    package static var fileTooBig: Int32 { 27 }
    package static var noSpace: Int32 { 28 }
    package static var readOnly: Int32 { 30 }
    package static var tooManyLinks: Int32 { 31 }
    package static var outOfRange: Int32 { 34 }
    package static var nameTooLong: Int32 { 36 }
    package static var notEmpty: Int32 { 39 }
    package static var noData: Int32 { 61 }
    package static var noSuchDeviceOrAddress: Int32 { 6 }
    package static var notSupported: Int32 { 95 }
    package static var stale: Int32 { 116 }
}
